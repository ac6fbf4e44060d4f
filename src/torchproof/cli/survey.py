"""`torchproof survey`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from torchproof.cli import options
from torchproof.cli.options import console, tell
from torchproof.core.errors import InputError
from torchproof.evaluate.survey import Survey
from torchproof.evaluate.survey import survey as ask_all
from torchproof.evaluate.survey.record import Cell
from torchproof.reproduce.survey import SMALL, publish, small, theories, trained, trainings


def survey(
    scale: Annotated[
        str, typer.Option(help="small: seven small networks, about 40 minutes on a core.")
    ] = "small",
    out: Annotated[Path, typer.Option(help="Where records, tables and the page go.")] = Path(
        "runs/survey"
    ),
    n: Annotated[
        int, typer.Option("--n", "--first", help="The first N test images of each network.", min=1)
    ] = 20,
    seconds: Annotated[
        float, typer.Option(help="For an image and a method, which is stopped then.", min=0.1)
    ] = 4.0,
    network: Annotated[
        list[str] | None,
        typer.Option(help=f"One of: {', '.join(SMALL)}; several may be given; default: all."),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="A name of `torchproof list verifiers`; several may be given; default: those of "
            "the survey, and some beyond it."
        ),
    ] = None,
    seed: options.Seed = 0,
    data_dir: options.DataDir = None,
    resume: options.Resume = False,
) -> None:
    """Ask every approach to certification about the same networks, images and input sets.

    Deterministic verifiers within a time limit, with attacks beside them; theories of smoothing on
    the same stored counts; smoothing trainings by stored logs and, unless --network or --method
    ask for a part, by small networks that are trained for it. Writes result.json, certification.md
    and a picture; a killed run goes on with --resume. Exit code 1 says that a bound was above what
    was reached in the set: a defect, which is shown in red.
    """
    if scale != "small":
        raise InputError(f"scale {scale!r}", "small", "larger ones need your own networks: "
                         "torchproof.evaluate.survey.survey")  # fmt: skip
    say = partial(console.print, markup=False, highlight=False)
    subjects = small(out, n, network or (), data_dir, say)
    found = ask_all(
        subjects, n, seconds, methods=method or None, out=out, resume=resume, seed=seed, say=say,
        command=options.command_line(),
    )  # fmt: skip
    own = () if network or method else trained(out, say)
    smoothed = {"theories": theories(data_dir), "trainings": (*trainings(data_dir), *own)}
    found = found.model_copy(update=smoothed)
    found.save(out)
    page = publish(found, out)
    for cell in found.cells:
        console.print(_table(cell))
    _failures(found)
    _alarm(found)
    tell(f"page: {page}")
    raise typer.Exit(1 if found.violations else 0)


def _table(cell: Cell) -> Table:
    about = f"{cell.title}: clean {cell.clean.value:.0%}, attacked {cell.attacked.value:.0%}"
    table = Table(title=about, title_justify="left", box=None)
    for name in ("method", "certified", "of", "95 % interval", "s an image", "out of time"):
        table.add_column(name, justify="left" if name == "method" else "right", no_wrap=True)
    for row in cell.rows:
        name = f"{row.method} = {row.same}" if row.same else row.method
        if row.certified is None:
            table.add_row(name, "estimate" if row.claimed is not None else "–")
            continue
        low, high = row.certified.ci95
        median = "–" if row.median_seconds is None else f"{row.median_seconds:.2f}"
        table.add_row(name, f"{row.certified.value:.0%}", str(row.certified.n),
                      f"{100 * low:.0f} to {100 * high:.0f} %", median, str(row.late))  # fmt: skip
    return table


def _failures(found: Survey) -> None:
    why = {
        row.method: row.failed
        for cell in found.cells for row in cell.rows if row.failed
    }  # fmt: skip
    for method, text in why.items():
        tell(f"{method}: {text}")


def _alarm(found: Survey) -> None:
    if not found.violations:
        console.print("[green]no bound is above what was reached in its set[/green]")
    for v in found.violations:
        text = (f"{v.network}, {v.threat}, image {v.image}: {v.method} is {v.wrong} "
                f"({v.told:.6g} against {v.reached:.6g})")  # fmt: skip
        console.print(f"[bold red]{escape(text)}[/bold red]")
