"""`torchproof reproduce`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, cast

import typer
from rich.markdown import Markdown

from torchproof.cli import options
from torchproof.cli.options import console, tell
from torchproof.core.errors import unknown
from torchproof.reproduce import EXPERIMENTS, Request
from torchproof.reproduce.experiment import Scale


def reproduce(
    name: Annotated[str, typer.Argument(help=f"One of: {', '.join(EXPERIMENTS)}.")],
    scale: Annotated[str, typer.Option(help="small (minutes on 2 cores) or paper.")] = "small",
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds.")] = 3,
    out: Annotated[Path | None, typer.Option(help="Default: runs/reproduce/NAME.")] = None,
    data_dir: options.DataDir = None,
    resume: options.Resume = False,
) -> None:
    """Repeat a paper's main experiment in small, beside what was published.

    Writes outcome.json, table.md and a picture. A claim that does not show is said so; exit code 1
    says that our figures contradict it.
    """
    if name not in EXPERIMENTS:
        raise unknown("experiment", name, EXPERIMENTS)
    folder = out or Path("runs/reproduce") / name
    say = partial(console.print, markup=False, highlight=False)
    request = Request(folder, cast(Scale, scale), seeds, resume, data_dir, say)
    outcome = EXPERIMENTS[name](request)
    console.print(Markdown(outcome.table()))
    tell(f"stored in {folder}")
    raise typer.Exit(1 if outcome.verdict == "contradicts" else 0)
