"""What `evaluate` does with a stream: chunk after chunk, sums alone in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from torchproof.cli.options import console, percent, tell
from torchproof.cli.show import table_of
from torchproof.core.errors import InputError
from torchproof.data.streamed_set import StreamSet
from torchproof.evaluate.streamed import StreamResult, evaluate_stream


def measure(model: Any, test: StreamSet, *, n: int | None, **asked: Any) -> NoReturn:
    """Evaluates the stream (its first n examples), shows the result, and exits."""
    chosen = test if n is None else test.take(n)
    with _bar(len(chosen)) as progress:
        result = evaluate_stream(model, chosen, progress=progress, **asked)
    _conclude(result, Path(asked["out"]))


def require_alone(**given: bool) -> None:
    """Raises InputError for an option that an evaluation by chunks does not have."""
    for name, asked in given.items():
        if asked:
            option = name if name == "torchrun" else f"--{name}"
            remedy = f"leave out {option}, or choose data that fit into memory"
            raise InputError(f"{option} on a stream", "one process, all of the stream", remedy)


@contextmanager
def _bar(count: int) -> Iterator[Callable[[int], None]]:
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("", total=count)
        yield lambda done: bar.update(task, completed=done)


def _conclude(result: StreamResult, out: Path) -> NoReturn:
    low, high = result.robust_accuracy_ci95
    console.print(f"n = {result.n} in {result.chunks} chunks, {result.threat}", highlight=False)
    console.print(table_of(result))
    console.print(
        f"[bold]robust accuracy {percent(result.robust_accuracy)}[/bold] "
        f"(95 % interval {percent(low)} to {percent(high)}), verdict: {result.verdict}"
    )
    for flag in result.flags:
        tell(f"{flag.severity}: {flag.name} ({flag.chunks} chunks): {flag.evidence}")
    for label in result.labels:
        tell(f"label: {label}")
    if not result.complete:
        tell(f"{out} is not complete: start it again with --resume")
    tell(f"result: {out / 'result.json'}")
    raise typer.Exit(0 if result.verdict == "ok" and result.complete else 1)
