"""`torchproof reproduce`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, cast

import torch
import typer
from rich.markdown import Markdown
from rich.markup import escape
from rich.table import Table

from torchproof.cli import options
from torchproof.cli.options import console, tell
from torchproof.core.errors import InputError
from torchproof.reproduce import EXPERIMENTS, Outcome, Request
from torchproof.reproduce.ahead import ahead
from torchproof.reproduce.collected import stored
from torchproof.reproduce.experiment import Scale
from torchproof.reproduce.systems import SYSTEMS


def reproduce(
    name: Annotated[
        str | None, typer.Argument(help="A name of --list, or `all` for one after the other.")
    ] = None,
    scale: Annotated[str, typer.Option(help="small (minutes on 2 cores) or paper.")] = "small",
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds.")] = 3,
    out: Annotated[Path | None, typer.Option(help="Default: runs/reproduce/NAME.")] = None,
    data_dir: options.DataDir = None,
    resume: options.Resume = False,
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Seeds measured at the same time, each by a process; default: as many as cores, "
            "1 with a GPU.",
        ),
    ] = None,
    known: Annotated[bool, typer.Option("--list", help="Only name the experiments.")] = False,
) -> None:
    """Repeat a paper's main experiment in small, beside what was published.

    Writes outcome.json, table.md and a picture. A claim that does not show is said so; exit code 1
    says that our figures contradict it. `all` writes a folder for each below --out, leaves out
    what is there with --resume, and goes on where one fails, which makes the exit code 2.
    """
    if known:
        _list()
        return
    if name is None:
        remedy = "see `torchproof reproduce --list`"
        raise InputError("no experiment", "the name of one, or all", remedy)
    say = partial(console.print, markup=False, highlight=False)

    def run(one: str, folder: Path) -> Outcome:
        request = Request(folder, cast(Scale, scale), seeds, resume, data_dir, say)
        cores = 1 if torch.cuda.is_available() else torch.get_num_threads()
        return ahead(partial(_named, one), request, jobs or cores)

    if name == "all":
        _all(run, out or Path("runs/reproduce"), resume)
    folder = out or Path("runs/reproduce") / name
    outcome = run(name, folder)
    console.print(Markdown(outcome.table()))
    tell(f"stored in {folder}")
    raise typer.Exit(1 if outcome.verdict == "contradicts" else 0)


def _named(name: str, request: Request) -> Outcome:
    return EXPERIMENTS[name](request)


def _list() -> None:
    table = Table(box=None, header_style="bold")
    for column in ("name", "published system", "where"):
        table.add_column(column, no_wrap=column == "name")
    for system in SYSTEMS:
        there = system.name in EXPERIMENTS
        table.add_row(system.name, system.title, system.where if there else "to come")
    for name in EXPERIMENTS:
        if name not in {system.name for system in SYSTEMS}:
            table.add_row(name, "(a further experiment)", "")
    console.print(table)


def _all(run: Callable[[str, Path], Outcome], out: Path, resume: bool) -> None:
    """Every experiment, whatever becomes of the others, and a table at the end."""
    table = Table(box=None, header_style="bold")
    for column in ("experiment", "verdict", "why", "minutes"):
        table.add_column(column, no_wrap=column != "why")
    failed = contradicted = False
    for name in EXPERIMENTS:
        try:
            ended = resume and (out / name / "outcome.json").exists()
            outcome = stored(out / name) if ended else run(name, out / name)
        except Exception as error:  # one experiment must not cost the others
            failed = True
            tell(f"{name} failed: {type(error).__name__}: {error}")
            table.add_row(name, "failed", escape(str(error)), "")
            continue
        contradicted |= outcome.verdict == "contradicts"
        minutes = f"{outcome.seconds / 60:.1f}"
        table.add_row(name, outcome.verdict, escape(outcome.because), minutes)
    console.print(table)
    raise typer.Exit(2 if failed else 1 if contradicted else 0)
