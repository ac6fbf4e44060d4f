"""`torchproof evaluate`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Table

from torchproof.cli import options
from torchproof.cli.inputs import members_of, network_and_data, threats_of
from torchproof.cli.options import console, percent, tell
from torchproof.evaluate import Progress as State
from torchproof.evaluate import Report, Result
from torchproof.evaluate import evaluate as measure
from torchproof.report import render


def evaluate(
    model: options.Model,
    threat: options.Threats,
    data: options.Data = "digits",
    suite: Annotated[str, typer.Option(help="See `torchproof list suites`.")] = "standard",
    attack: Annotated[
        str | None,
        typer.Option(help="Instead of a suite, e.g. 'Chain(PGD(50), Square)' for Linf."),
    ] = None,
    n: options.First = None,
    batch_size: options.Slots = 128,
    out: Annotated[Path, typer.Option(help="Where the ledger and the result go.")] = Path(
        "runs/evaluate"
    ),
    seed: options.Seed = 0,
    device: options.Device = None,
    data_dir: options.DataDir = None,
    resume: options.Resume = False,
    shard: Annotated[
        str | None, typer.Option(help="i/k: every k-th example; see `torchproof merge`.")
    ] = None,
    quantised: Annotated[
        bool, typer.Option("--quantised", help="Count only adversarial images of 8 bits.")
    ] = False,
    adversarial: Annotated[
        bool, typer.Option("--adversarial/--no-adversarial", help="Keep the adversarial images.")
    ] = True,
    max_seconds: options.MaxSeconds = None,
) -> None:
    """Measure clean and robust accuracy on the test part of a data set, with a record per example.

    Writes result.json, examples.csv, the adversarial images and report.html. A killed run goes on
    with --resume and ends with the same result; neither batch size nor order nor sharding changes
    any decision. Exit code 1 says that the result should not be believed, or is not complete.
    """
    threats = threats_of(threat)
    loaded, test = network_and_data(model, data, data_dir, device)
    with progress_bar() as show:
        report = measure(
            loaded.model,
            test,
            threats if len(threats) > 1 else threats[0],
            suite if attack is None else members_of(attack, threats),
            seed=seed,
            n=n,
            slots=batch_size,
            out=out,
            resume=resume,
            shard=shard,
            quantised=quantised,
            save_adversarial=adversarial,
            max_seconds=max_seconds,
            progress=show,
            name=loaded.name,
            data_name=f"{data} (test)",
            model_sha256=loaded.sha256,
            data_sha256=test.sha256,
            command=options.command_line(),
        )
    run = Path(model) / "metrics.jsonl"
    page = render(
        [out],
        out / "report.html",
        training=run if run.is_file() else None,
        classes=test.classes,
    )
    show_report(report)
    tell(f"report: {page}")
    raise typer.Exit(0 if report.verdict == "ok" else 1)


@contextmanager
def progress_bar() -> Iterator[Callable[[State], None]]:
    """A bar per attack; nothing where the output is not a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TextColumn("{task.fields[lost]} broken"), console=console,
                  transient=True, disable=not console.is_terminal) as bar:  # fmt: skip
        tasks: dict[str, TaskID] = {}

        def show(state: State) -> None:
            if state.stage not in tasks:
                tasks[state.stage] = bar.add_task(state.stage, total=state.total, lost=0)
            task = tasks[state.stage]
            bar.update(task, completed=state.done, total=state.total, lost=state.broken)

        yield show


def _table(result: Result) -> Table:
    table = Table()
    for name in ("attack", "robust", "broken", "forward", "backward", "seconds"):
        table.add_column(name, justify="left" if name == "attack" else "right", no_wrap=True)
    table.add_row("clean", percent(result.clean_accuracy), "", "", "", "")
    for row in result.attacks:
        counts = (f"{row.broken:,}", f"{row.forward:,}", f"{row.backward:,}", f"{row.seconds:.1f}")
        table.add_row(escape(row.name), percent(row.robust_accuracy), *counts)
    return table


def _list(result: Result) -> None:
    """The table, a paragraph per row."""
    console.print(f"clean: {percent(result.clean_accuracy)}")
    for row in result.attacks:
        console.print(
            f"{escape(row.name)}: robust {percent(row.robust_accuracy)}, {row.broken:,} broken, "
            f"{row.forward:,} forward, {row.backward:,} backward, {row.seconds:.1f} s"
        )


def show_report(report: Report) -> None:
    """The result as a table, with flags below."""
    result = report.result
    low, high = result.robust_accuracy_ci95
    norm, eps = result.threat.norm, result.threat.eps_text
    about = f"{escape(result.model)} on {escape(result.data)}, n = {result.n}"
    threat = eps if norm == "union" else f"{norm}:{eps}"
    console.print(f"{about}, threat {threat}, suite {result.suite}")
    table = _table(result)
    wide = console.options.update(max_width=1000)
    if Measurement.get(console, wide, table).maximum <= console.width:
        console.print(table)
    else:  # a table squeezed into fewer columns would break its numbers
        _list(result)
    console.print(
        f"[bold]robust accuracy {percent(result.robust_accuracy)}[/bold] "
        f"(95 % interval {percent(low)} to {percent(high)}), verdict: {result.verdict}"
    )
    for flag in result.flags:
        console.print(f"{flag.severity}: {escape(flag.name)}: {escape(flag.evidence)}")
