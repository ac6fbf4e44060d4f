"""Shards of an evaluation by chunks put together: the folder that one process would have left."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torchproof.core.errors import FileError, InputError
from torchproof.core.files import write, writing
from torchproof.evaluate.ledger import RESULT
from torchproof.evaluate.merge import asked_of, require_whole
from torchproof.evaluate.record import EXAMPLES
from torchproof.evaluate.tally import (
    CHUNKS,
    DONE,
    SETTINGS,
    StreamResult,
    evaluated,
    folder_of,
    summed,
)


def merge_streams(folders: Sequence[Path | str], out: Path | str) -> StreamResult:
    """The result of all shards of `evaluate_stream(shard=...)` together, written to `out` with the
    result and the table of every chunk; the ledgers stay where they are.

    It equals that of one process but for seconds, date and command. Raises FileError for a folder
    without a result, a shard that is not complete and an `out` that is not new, InputError for
    shards that are not all parts of one evaluation, each exactly once, and where some ran the
    suite's reserve and others did not.
    """
    parts, out = [Path(folder) for folder in folders], Path(out)
    settings = [_settings(part) for part in parts]
    require_whole([*zip(parts, settings, strict=True)])
    _require_ended(parts)
    if (out / RESULT).exists() or (out / CHUNKS).exists():
        raise FileError(f"{out}, which holds a run", "a new folder", "choose another folder")
    for part in parts:
        for chunk in evaluated(part):
            _copy(chunk, folder_of(out, int(chunk.name)))
    write(out / SETTINGS, json.dumps(settings[0] | {"shard": "0/1"}, indent=2).encode() + b"\n")
    result = summed(out, complete=True)
    assert result is not None, "every shard has a result"
    result.save(out)
    return result


def is_stream(folder: Path) -> bool:
    """Was this folder written by an evaluation by chunks?"""
    return (folder / SETTINGS).is_file()


def _settings(folder: Path) -> dict[str, Any]:
    path = folder / SETTINGS
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        remedy = "name the folders of `evaluate --shard i/k` on a stream"
        raise FileError(f"{path} ({error})", "the settings of a shard", remedy) from error
    return found


def _require_ended(parts: Sequence[Path]) -> None:
    """Raises FileError for a shard that was left before its end, InputError where the reserve of
    the suite was run by some alone.
    """
    for part in parts:
        if not StreamResult.read(part).complete:
            remedy = "evaluate that shard again with resume=True"
            raise FileError(f"{part}, which is not complete", "a shard that has ended", remedy)
    chunks = [chunk for part in parts for chunk in evaluated(part)]
    without = [chunk for chunk in chunks if not (chunk / DONE[1]).exists()]
    if without and any(asked_of([chunk]) for chunk in chunks):
        lacking = [str(part) for part in parts if any(part in chunk.parents for chunk in without)]
        raise InputError(
            f"{' and '.join(lacking)} without the reserve of the suite, which a red flag of "
            "another shard asks for",
            "shards that ran the same attacks",
            "evaluate them again with full=True (--full) and resume=True, then merge",
        )


def _copy(chunk: Path, to: Path) -> None:
    with writing(to):
        to.mkdir(parents=True)
        for name in (RESULT, EXAMPLES, *DONE):
            if (chunk / name).exists():
                shutil.copy2(chunk / name, to / name)
