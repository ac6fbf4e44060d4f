"""What commands show: a bar while they work, a result as a table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.markup import escape
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Table

from torchproof.cli.options import console, percent, tell
from torchproof.evaluate import Progress as State
from torchproof.evaluate import Report, Result


@contextmanager
def progress_bar(word: str = "broken") -> Iterator[Callable[[State], None]]:
    """A bar per attack, which counts what is `word`; nothing where the output is not a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TextColumn("{task.fields[lost]} " + word), console=console,
                  transient=True, disable=not console.is_terminal) as bar:  # fmt: skip
        tasks: dict[str, TaskID] = {}

        def show(state: State) -> None:
            if state.stage not in tasks:
                tasks[state.stage] = bar.add_task(state.stage, total=state.total, lost=0)
            task = tasks[state.stage]
            bar.update(task, completed=state.done, total=state.total, lost=state.broken)

        yield show


def table_of(result: Result) -> Table:
    """Accuracy after each attack, and what that cost."""
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
    show_result(report.result)


def show_result(result: Result) -> None:
    """As `show_report`."""
    low, high = result.robust_accuracy_ci95
    norm, eps = result.threat.norm, result.threat.eps_text
    about = f"{escape(result.model)} on {escape(result.data)}, n = {result.n}"
    threat = eps if norm == "union" else f"{norm}:{eps}"
    aim = "" if result.target is None else f", targeted at {result.target}"
    console.print(f"{about}, threat {threat}{aim}, suite {result.suite}")
    table = table_of(result)
    wide = console.options.update(max_width=1000)
    if Measurement.get(console, wide, table).maximum <= console.width:
        console.print(table)
    else:  # a table squeezed into fewer columns would break its numbers
        _list(result)
    console.print(
        f"[bold]robust accuracy {percent(result.robust_accuracy)}[/bold] "
        f"(95 % interval {percent(low)} to {percent(high)}), verdict: {result.verdict}"
    )
    if result.rejection_rate is not None:
        console.print(f"clean images rejected: {percent(result.rejection_rate)}")
    if result.per_robust_example is not None:
        console.print(
            f"suite {result.suite}: {result.per_robust_example:,.0f} evaluations (forward and "
            "backward) per robust example"
        )
    if result.probes.forward:
        console.print(
            f"probes behind the flags: {result.probes.examples} examples, "
            f"{result.probes.forward:,} forward, {result.probes.backward:,} backward"
        )
    for flag in result.flags:
        console.print(f"{flag.severity}: {escape(flag.name)}: {escape(flag.evidence)}")


def show_labels(result: Result) -> None:
    """What verifier and attacks say together, and what the numbers must be read with."""
    if result.standing is not None:
        parts = result.standing.model_dump().items()
        tell("verifier and attacks: " + ", ".join(f"{n} {name}" for name, n in parts if n))
        low, high = result.certified_accuracy, result.robust_accuracy
        tell(f"certified {percent(low)} <= robust accuracy <= attacked {percent(high)}")
    for label in result.labels:
        tell(f"label: {label}")
