"""`torchproof merge`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from torchproof.cli.evaluate import conclude
from torchproof.cli.options import command_line
from torchproof.cli.streams import merge_shards
from torchproof.evaluate import merge as merged
from torchproof.evaluate.stream_merge import is_stream
from torchproof.report import render


def merge(
    shards: Annotated[list[Path], typer.Argument(help="Folders of `evaluate --shard i/k`.")],
    out: Annotated[Path, typer.Option(help="Where the merged result goes.")] = Path("runs/merged"),
) -> None:
    """Merge the shards of one evaluation into the result that one process would have had.

    Exit code 1 says that the result should not be believed, or is not complete.
    """
    if any(map(is_stream, shards)):
        merge_shards(shards, out)
    report = merged(shards, out, command=command_line())
    page = render([out], out / "report.html")
    conclude(report, page)
