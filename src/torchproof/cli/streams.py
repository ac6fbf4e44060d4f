"""What `evaluate` and `merge` do with a stream: chunk after chunk, sums alone in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import torch
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from torchproof.cli import several
from torchproof.cli.options import console, tell
from torchproof.cli.radii import radii
from torchproof.cli.show import show_labels, show_result
from torchproof.data.streamed_set import StreamSet
from torchproof.evaluate import together
from torchproof.evaluate.stream_merge import merge_streams
from torchproof.evaluate.streamed import evaluate_stream, require_new
from torchproof.evaluate.tally import StreamResult
from torchproof.report import render
from torchproof.report.evaluation import CURVE


def measure(
    model: Any, test: StreamSet, *, place: torch.device, curve: bool, training: Path | None,
    threat: Any, suite: Any, out: Path, resume: bool, full: bool, n: int | None,
    max_seconds: float | None, command: str, **asked: Any,
) -> NoReturn:  # fmt: skip
    """Evaluates the stream (its first n examples), shows the result, writes the page, and exits.

    Under torchrun every process takes the next chunk that none of the others is at; the first one
    waits for the end and speaks.
    """
    chosen, shared = test if n is None else test.take(n), several.started() > 1
    resume, rest = several.resumed(resume), together.left(max_seconds)
    if shared:
        several.first(place, lambda: require_new(out, resume))
    asked |= {"shared": shared, "resume": resume, "command": command}
    with _bar(len(chosen)) as progress:
        result = evaluate_stream(
            model, chosen, threat, suite, out=out, full=full, max_seconds=rest(),
            progress=progress, **asked,
        )  # fmt: skip
    if curve and result.complete:
        more = {k: v for k, v in asked.items() if k not in ("verifier", "target")}
        for name, other in radii(threat).items():
            evaluate_stream(model, chosen, other, "quick", out=out / CURVE / name, **more)
    if several.rank() > 0:
        raise typer.Exit(0)
    _conclude(result, render([out], out / "report.html", training=training, classes=test.classes))


def merge_shards(shards: Sequence[Path], out: Path) -> NoReturn:
    """Merges the shards of a stream, and of its curve where every one has it; shows, and exits."""
    result = merge_streams(shards, out)
    names = [{path.name for path in (shard / CURVE).glob("*")} for shard in shards]
    for name in sorted(set.intersection(*names)):
        merge_streams([shard / CURVE / name for shard in shards], out / CURVE / name)
    _conclude(result, render([out], out / "report.html"))


@contextmanager
def _bar(count: int) -> Iterator[Callable[[int], None]]:
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("", total=count)
        yield lambda done: bar.update(task, completed=done)


def _conclude(result: StreamResult, page: Path) -> NoReturn:
    show_result(result)
    tell(f"{result.chunks} chunks, each with its examples in {page.parent / 'chunks'}")
    show_labels(result)
    if not result.complete:
        tell(f"{page.parent} is not complete: start it again with --resume")
    tell(f"report: {page}")
    raise typer.Exit(0 if result.verdict == "ok" else 1)
