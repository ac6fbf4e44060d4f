"""`torchproof diagnose`."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from torchproof import data as sets
from torchproof.cli import options
from torchproof.cli.inputs import network_and_data
from torchproof.cli.options import console, tell
from torchproof.core.errors import InputError
from torchproof.core.threats import parse
from torchproof.data.dataset import Dataset
from torchproof.diagnose.diagnosis import FILE, Diagnosis
from torchproof.diagnose.diagnosis import diagnose as measure
from torchproof.diagnose.parts import PARTS, USUAL
from torchproof.diagnose.subject import Images, Sets, Subject
from torchproof.evaluate.versions import versions
from torchproof.nn import load_model
from torchproof.report.diagnosis import render_diagnosis


def diagnose(
    model: options.Model,
    data: options.Data = "digits",
    threat: Annotated[
        str, typer.Option(help="NORM:EPS, of the robust loss, such as linf:8/255.")
    ] = "linf:0.1",
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only", help=f"Of {', '.join(PARTS)}; several go. Default: {', '.join(USUAL)}."
        ),
    ] = None,
    also: Annotated[
        list[str] | None,
        typer.Option(
            "--also", help=f"Beside these: {', '.join(n for n in PARTS if n not in USUAL)}."
        ),
    ] = None,
    layers: Annotated[
        list[str] | None,
        typer.Option("--layers", help="Lipschitz constants of these, by dotted name; several go."),
    ] = None,
    checkpoints: Annotated[
        list[Path] | None,
        typer.Option(
            "--checkpoints",
            help="Tail index along these: a folder of networks such as epoch-010.safetensors, or "
            "such files; several go.",
        ),
    ] = None,
    gradient_batch: Annotated[
        int | None,
        typer.Option(
            help="Images of each gradient of the tail index, best those of a training step; "
            "default: 100, or fewer where there are few.",
            min=1,
        ),
    ] = None,
    n: Annotated[int, typer.Option("--n", "--first", help="Test images.", min=2)] = 256,
    n_train: Annotated[int, typer.Option(help="Training images.", min=2)] = 5000,
    seed: options.Seed = 0,
    batch_size: options.Slots = 256,
    out: Annotated[Path, typer.Option(help="Where record, pictures and page go.")] = Path(
        "runs/diagnose"
    ),
    device: options.Device = None,
    data_dir: options.DataDir = None,
    resume: options.Resume = False,
) -> None:
    """Look inside a trained network: flatness, loss landscape, tail index of the gradient noise,
    prunability, local Lipschitz robustness, response to noise; more with --also, --layers and
    --checkpoints.

    Writes diagnosis.json, every picture as PNG and SVG, and diagnosis.html. Exit code 1 where a
    diagnostic does not apply to the network. A killed run goes on with --resume.
    """
    about = parse(threat)
    loaded, test = network_and_data(model, data, data_dir, device, n)
    train = sets.load(data, data_dir=data_dir, split="train")
    place = options.device_of(device)

    def images(part: Dataset) -> Images:
        return Images(part.x.to(place), part.y.to(place))

    both = Sets(images(train.take(min(n_train, len(train)))), images(test))
    along = tuple((step, load_model(str(p), place).model) for step, p in _steps(checkpoints or []))
    implied = {"layers": layers, "tail-track": checkpoints}
    names = [*(only or USUAL), *(also or []), *(name for name, given in implied.items() if given)]
    found = measure(
        Subject(loaded.model, both, about, seed, batch_size, tuple(layers or ()), along,
                gradient_batch),
        tuple(dict.fromkeys(names)),
        about={"model": loaded.name, "data": data, "threat": str(about), "versions": versions(),
               "command": options.command_line()},
        out=out, resume=resume, say=tell,
    )  # fmt: skip
    _show(found, render_diagnosis(found, out), out)


def _steps(paths: list[Path]) -> list[tuple[int, Path]]:
    """The step of each checkpoint, by the last number of its name, in order.

    Raises InputError for a folder without any, a name without a number, one number twice.
    """
    files: list[Path] = []
    for path in paths:
        inside = [p for p in path.glob("*.safetensors") if re.search(r"\d", p.stem)]
        if path.is_dir() and not inside:
            given = f"{path}, which holds no file such as epoch-010.safetensors"
            raise InputError(given, "a folder of checkpoints", "name their folder, or the files")
        files += inside or [path]
    found = [(re.findall(r"\d+", path.stem), path) for path in files]
    for numbers, path in found:
        if not numbers:
            remedy = "rename it, as to epoch-010.safetensors"
            raise InputError(f"the checkpoint {path}", "a number in its name", remedy)
    steps = sorted((int(numbers[-1]), path) for numbers, path in found)
    for (one, first), (other, second) in itertools.pairwise(steps):
        if one == other:
            remedy = "give the checkpoints of one training"
            raise InputError(f"{first} and {second}", "different numbers", remedy)
    return steps


def _show(found: Diagnosis, page: Path, out: Path) -> None:
    table = Table("diagnostic", "reading")
    for part in found.parts.values():
        table.add_row(part.title, escape(part.reading))
    for name, reason in found.refused.items():
        table.add_row(name, f"[red]not measured[/red]: {escape(reason)}")
    console.print(table)
    for note in found.notes:
        tell(f"beware: {note}")
    tell(f"record: {out / FILE}, page: {page}")
    raise typer.Exit(1 if found.refused else 0)
