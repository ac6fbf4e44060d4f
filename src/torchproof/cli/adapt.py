"""`torchproof adapt`."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from torchproof import data as sets
from torchproof.adaptive.adapt import BUDGET
from torchproof.adaptive.adapt import adapt as debug
from torchproof.adaptive.adapted import CAVEAT, Adapted
from torchproof.cli import options
from torchproof.cli.inputs import network_and_data
from torchproof.cli.options import console, percent, tell
from torchproof.core.errors import FileError
from torchproof.core.files import write
from torchproof.core.threats import parse
from torchproof.evaluate.flags import SEVERE
from torchproof.evaluate.versions import versions

IMAGES = "worst.npz"


def adapt(
    model: options.Model,
    threat: Annotated[str, typer.Option(help="NORM:EPS, such as linf:8/255.")],
    data: options.Data = "digits",
    n: Annotated[int, typer.Option("--n", "--first", help="Test images.", min=8)] = 100,
    budget: Annotated[
        int, typer.Option(help="Forward plus backward samples per image for all trials.", min=1)
    ] = BUDGET,
    references: Annotated[
        int, typer.Option(help="Training images that the adversary may imitate.", min=0)
    ] = 500,
    seed: options.Seed = 0,
    batch_size: options.Slots = 128,
    pictures: Annotated[bool, typer.Option("--pictures/--no-pictures", help="Draw.")] = True,
    out: Annotated[Path, typer.Option(help="Where record, images and pictures go.")] = Path(
        "runs/adapt"
    ),
    device: options.Device = None,
    data_dir: options.DataDir = None,
) -> None:
    """Debug an evaluation: red flags, the active test, the part that misleads, a small search for
    the attack that it does not mislead. No certificate.

    Writes adaptation.json, worst.npz and pictures. Exit code 1 where a severe flag says that the
    naive evaluation should not be believed.
    """
    about = parse(threat)
    if (out / "adaptation.json").exists():
        raise FileError(f"{out}, which has an adaptation.json", "a new folder", "pass --out")
    loaded, test = network_and_data(model, data, data_dir, device, n)
    place = options.device_of(device)
    imitated = None
    if references:
        train = sets.load(data, data_dir=data_dir, split="train")
        train = train.take(min(references, len(train)))
        imitated = train.x.to(place), train.y.to(place)
    x, y = test.x.to(place), test.y.to(place)
    found = debug(
        loaded.model, x, y, about, budget, seed,
        references=imitated, slots=batch_size, say=tell,
    )  # fmt: skip
    path = found.save(
        out, model=loaded.name, data=f"{data} (test)", threat=str(about), n=len(test), seed=seed,
        model_sha256=loaded.sha256, data_sha256=test.sha256, versions=versions(),
        command=options.command_line(),
    )  # fmt: skip
    _keep(found, x, y, out)
    if pictures:
        _draw(found, x, test.classes, out)
    _show(found)
    tell(f"record: {path}; the worst image of every example: {out / IMAGES}")
    raise typer.Exit(1 if any(flag.severity == SEVERE for flag in found.flags) else 0)


def _keep(found: Adapted, x: Tensor, y: Tensor, out: Path) -> None:
    """The worst images beside the clean ones."""
    buffer = io.BytesIO()
    np.savez(
        buffer, x=x.cpu().numpy(), x_adv=found.x.cpu().numpy(), y=y.cpu().numpy(),
        broken=np.array([row.status == "broken" for row in found.rows]),
    )  # fmt: skip
    write(out / IMAGES, buffer.getvalue(), "give another folder")


def _draw(found: Adapted, x: Tensor, classes: tuple[str, ...], out: Path) -> None:
    from torchproof.adaptive.pictures import course, worst_images
    from torchproof.report.pictures import save

    save(course(found), out / "course.png")
    save(worst_images(found, x, classes), out / "worst.png")


def _show(found: Adapted) -> None:
    flags = Table("flag", "severity", "evidence", "what to do")
    for flag in found.flags:
        flags.add_row(flag.name, flag.severity, escape(flag.evidence), escape(flag.remedy))
    console.print(flags if found.flags else "no red flag")
    for name, test in (("naive", found.active), ("best", found.active_after)):
        if test is not None:
            sure = "" if test.informative else " (says nothing: too few problems, or too easy)"
            tell(
                f"active test, {name} attack: {test.found} of {test.problems} problems solved, "
                f"{test.random} by random points{sure}"
            )
    if found.components:
        parts = Table("part", "score", "flags gone without it", "gone through a substitute")
        for part in found.components:
            gone = [", ".join(v.cleared) or "none" if v else "–"
                    for v in (part.without, part.substituted)]  # fmt: skip
            parts.add_row(part.part, f"{part.score:.1f}", *gone)
        console.print(parts)
    steps = Table("varied", "trial", "asked", "won", "new", "robust accuracy left")
    for step in found.steps:
        counts = (str(count) for count in (step.asked, step.won, step.fresh))
        steps.add_row(step.axis, escape(step.name), *counts, percent(step.robust))
    console.print(steps)
    tell(f"clean accuracy {percent(found.clean)}, naive {percent(found.naive)}, worst case over "
         f"all trials {percent(found.robust)}")  # fmt: skip
    tell(found.reading)
    tell(CAVEAT)
