"""`torchproof train-many`."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table as Shown

from torchproof.cli import options, several
from torchproof.cli.options import console, tell
from torchproof.recipes import Comparison, Many, Table


def train_many(
    file: Annotated[Path, typer.Argument(help="A YAML table: base, rows, seeds, evaluate.")],
    out: Annotated[Path, typer.Option(help="The folder of all runs.")] = Path("runs/train-many"),
    data_dir: options.DataDir = None,
    device: options.Device = None,
    resume: options.Resume = False,
    max_seconds: options.MaxSeconds = None,
) -> None:
    """Train a table of methods, each with every seed, and compare them.

    Every network is judged by the same attacks on the same images. comparison.md holds means and
    spreads over the seeds and paired tests against the reference row; comparison.json all of it.
    Under torchrun every process takes the next network that none is at, each on its own GPU.
    Exit code 1 says that --max-seconds ended the work before the last network.
    """
    say = partial(console.print, markup=False, highlight=False)
    stop = options.deadline(max_seconds) or (lambda: False)
    table, local = Table.read(file), several.local(device)
    many = Many(table, out, several.resumed(resume), data_dir, local, say, stop)
    if several.started() > 1:
        several.first(local, many.begin)
        mine = table.seeds[several.rank() % len(table.seeds)]
        many = replace(many, resume=True)
        replace(many, first=(mine,)).run()
        if several.rank() > 0:
            raise typer.Exit(0)
    found = many.run()
    if found is None:
        tell(f"stopped; go on with --resume --out {out}")
        raise typer.Exit(1)
    console.print(_short(found))
    tell(f"stored in {out}; comparison.md has all columns")


def _short(found: Comparison) -> Shown:
    """Means and spreads in percent, and the differences to the reference."""
    shown = Shown("method", "clean", found.suite, f"minus {found.reference}", "p (images)")
    for line in found.lines:
        shares = [
            f"{100 * line.mean(k):.1f} ± {100 * line.spread(k):.1f}" for k in ("clean", "robust")
        ]
        own = line.difference
        more = ("–", "–") if own is None else (f"{100 * own.mean:+.1f}", f"{own.p_images:.2g}")
        shown.add_row(line.name, *shares, *more)
    return shown
