"""`torchproof compare`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from torchproof.cli import options
from torchproof.cli.inputs import network_and_data
from torchproof.cli.options import console, percent, tell
from torchproof.compare import ATTACKS, LIBRARIES, Comparison
from torchproof.compare import compare as compared
from torchproof.core.threats import parse

SHOWN = 20  # differing examples that are printed; the file has them all


def compare(
    model: options.Model,
    threat: Annotated[str, typer.Option(help="NORM:EPS, such as linf:8/255; linf, l2 or l1.")],
    data: options.Data = "digits",
    attack: Annotated[str, typer.Option(help=f"One of {', '.join(ATTACKS)}.")] = "apgd-ce",
    libraries: Annotated[
        str | None, typer.Option(help=f"Comma-separated, of {', '.join(LIBRARIES)}; default: all.")
    ] = None,
    autoattack: Annotated[
        Path | None, typer.Option(help="The folder with the source of AutoAttack.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Of the attack (queries for square); default: the usual.")
    ] = None,
    defaults: Annotated[
        bool, typer.Option("--defaults", help="Each library's own settings, not the same for all.")
    ] = False,
    n: options.First = None,
    batch_size: options.Slots = 128,
    out: Annotated[Path, typer.Option(help="Where comparison.json goes.")] = Path("runs/compare"),
    seed: options.Seed = 0,
    device: options.Device = None,
    data_dir: options.DataDir = None,
) -> None:
    """Run one attack of several libraries on the same images, and say where and why they differ.

    Every returned image is judged by torchproof: in ball and box, and misclassified. Evaluations
    are counted from outside, at the model. Exit code 1 says that a library that was named gave no
    result, or that none did.
    """
    chosen = [word.strip() for word in libraries.split(",")] if libraries else list(LIBRARIES)
    limits = parse(threat)
    loaded, test = network_and_data(model, data, data_dir, device)
    with console.status("") as status:
        result = compared(
            loaded.model,
            test,
            limits,
            attack,
            chosen,
            seed=seed,
            n=n,
            slots=batch_size,
            steps=steps,
            matched=not defaults,
            autoattack=autoattack,
            progress=lambda name: status.update(f"{name}: {attack}"),
            name=loaded.name,
            data_name=f"{data} (test)",
            model_sha256=loaded.sha256,
            data_sha256=test.sha256,
            command=options.command_line(),
        )
    path = result.save(out)
    _show(result)
    tell(f"result: {path}")
    ran = [record.status == "ok" for record in result.libraries]
    raise typer.Exit(0 if (all(ran) if libraries else any(ran)) else 1)


def _show(result: Comparison) -> None:
    """The table, the settings, and where libraries differ."""
    console.print(
        f"{result.model} on {result.data}, n = {result.n}, threat {result.norm}:{result.eps_text}, "
        f"{result.attack}, {'the same' if result.matched else 'default'} settings, "
        f"clean {percent(result.clean_accuracy)}",
        markup=False,
    )
    table = _table(result)
    wide = console.options.update(max_width=1000)
    if Measurement.get(console, wide, table).maximum <= console.width:
        console.print(table)
    else:  # a table squeezed into fewer columns would break its numbers
        _list(result)
    for record in result.libraries:
        said = record.reason if record.status != "ok" else record.settings or ""
        parts = (record.name, record.version, record.status if record.status != "ok" else None)
        title = " ".join(part for part in parts if part)
        tell(f"{title}: {said}")
    console.print(f"broken by none of them: {percent(result.union_robust_accuracy)}")
    _differences(result)


def _cells(result: Comparison) -> list[list[str]]:
    """Name, robust accuracy, interval, evaluations, seconds, outside, missed of those that ran."""
    cells = []
    for r in result.libraries:
        if r.robust_accuracy is None or r.robust_accuracy_ci95 is None:
            continue
        low, high = (f"{100 * v:.1f}" for v in r.robust_accuracy_ci95)
        counts = [f"{r.forward:,}", f"{r.backward:,}", f"{r.seconds:.1f}", f"{r.outside}"]
        missed = str(sum(r.missed.values()))
        robust = f"{100 * r.robust_accuracy:.2f}"
        cells.append([r.name, robust, f"{low}-{high}", *counts, missed])
    return cells


def _table(result: Comparison) -> Table:
    table = Table()
    table.add_column("library", no_wrap=True)
    for title in ("robust", "95 %", "forward", "backward", "s", "outside", "missed"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in _cells(result):
        table.add_row(*map(escape, row))
    return table


def _list(result: Comparison) -> None:
    for name, robust, interval, forward, backward, seconds, out, missed in _cells(result):
        tell(
            f"{name}: robust {robust} % ({interval}), {forward} forward, "
            f"{backward} backward, {seconds} s, {out} points outside, {missed} missed"
        )


def _differences(result: Comparison) -> None:
    """Reasons with counts, then the first differing examples."""
    for record in result.libraries:
        if record.missed:
            why = ", ".join(f"{reason} {count}" for reason, count in record.missed.items())
            tell(f"{record.name} missed what another one broke: {why}")
    for d in result.differences[:SHOWN]:
        groups = Counter(miss.reason for miss in d.missed_by.values())
        missed = "; ".join(
            f"{', '.join(k for k, m in d.missed_by.items() if m.reason == why)}: {why}"
            for why in groups
        )
        tell(f"example {d.id} (class {d.label}): broken by {', '.join(d.broken_by)}; {missed}")
    if len(result.differences) > SHOWN:
        tell(f"and {len(result.differences) - SHOWN} more in the file")
