"""`torchproof diagnose`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from torchproof import data as sets
from torchproof.cli import options
from torchproof.cli.inputs import network_and_data
from torchproof.cli.options import console, tell
from torchproof.core.threats import parse
from torchproof.data.dataset import Dataset
from torchproof.diagnose.diagnosis import FILE, Diagnosis
from torchproof.diagnose.diagnosis import diagnose as measure
from torchproof.diagnose.parts import PARTS, Images, Sets, Subject
from torchproof.evaluate.versions import versions
from torchproof.report.diagnosis import render_diagnosis


def diagnose(
    model: options.Model,
    data: options.Data = "digits",
    threat: Annotated[
        str, typer.Option(help="NORM:EPS, of the robust loss, such as linf:8/255.")
    ] = "linf:0.1",
    only: Annotated[
        list[str] | None, typer.Option("--only", help=f"Of {', '.join(PARTS)}; several go.")
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
    prunability, local Lipschitz robustness, response to noise.

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
    found = measure(
        Subject(loaded.model, both, about, seed, batch_size), tuple(only or PARTS),
        about={"model": loaded.name, "data": data, "threat": str(about), "versions": versions(),
               "command": options.command_line()},
        out=out, resume=resume, say=tell,
    )  # fmt: skip
    _show(found, render_diagnosis(found, out), out)


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
