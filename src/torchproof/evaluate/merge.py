"""Shards put together: the result that one process would have reached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torchproof.core.errors import FileError, InputError
from torchproof.evaluate.ledger import RECORDS, RESULT, Header, Record, read_records
from torchproof.evaluate.report import PICTURES, Report, read_pictures
from torchproof.evaluate.subject import shard_of
from torchproof.evaluate.summary import alarms, summarise

_OWN = ("shard", "ids")  # settings in which shards differ


@dataclass(frozen=True)
class _Part:
    """One shard: number `index` of `count`."""

    folder: Path
    header: Header
    index: int
    count: int

    @classmethod
    def read(cls, folder: Path) -> _Part:
        header = Header.read(folder)
        if not (folder / RESULT).exists():
            remedy = "evaluate that shard again with resume=True"
            raise FileError(f"{folder} without {RESULT}", "a shard that has ended", remedy)
        return cls(folder, header, *shard_of(header.settings["shard"]))


def merge(
    folders: Sequence[Path | str], out: Path | str | None = None, *, command: str | None = None
) -> Report:
    """The report of all shards together, written to `out` where that is given.

    It equals that of one process but for seconds, date and command. Raises FileError for a folder
    that is no ended shard or an `out` that holds a result, InputError for shards that are not all
    parts of one evaluation, each exactly once.
    """
    parts = sorted((_Part.read(Path(folder)) for folder in folders), key=lambda part: part.index)
    require_whole([(part.folder, part.header.settings) for part in parts])
    if out is not None and (Path(out) / RESULT).exists():
        raise FileError(f"{out}, which has {RESULT}", "a new folder", "choose another")
    header = _joined(parts, command or f"torchproof.evaluate.merge({[str(f) for f in folders]})")
    records = _records(parts)
    result, rows = summarise(header, records)
    report = Report(result, rows, *_pictures(parts))
    if out is not None:
        report.save(out)
    return report


def asked_of(folders: Sequence[Path]) -> list[str]:
    """The flags after which the reserve of the suite is to be run, as all shards together raise
    them; errors as of `merge`.
    """
    parts = sorted((_Part.read(folder) for folder in folders), key=lambda part: part.index)
    if len(parts) > 1:
        require_whole([(part.folder, part.header.settings) for part in parts])
    header = _joined(parts, "")
    if not any(attack.get("reserve") for attack in header.settings["attacks"]):
        return []
    return alarms(header, _records(parts))


def _records(parts: Sequence[_Part]) -> dict[int, dict[str, Record]]:
    records: dict[int, dict[str, Record]] = {}
    for part in parts:
        for record in read_records(part.folder / RECORDS)[0]:
            records.setdefault(record["id"], {})[record["attack"]] = record
    return records


def require_whole(shards: Sequence[tuple[Path, Mapping[str, Any]]]) -> None:
    """Raises InputError unless the folders, each with its settings, are shards 0 ... k - 1 of k of
    the same evaluation.
    """
    if not shards:
        raise InputError("no folders", "the folders of all shards", "pass them as a list")
    folder, first = min(shards, key=lambda shard: str(shard[1]["shard"]))
    given = sorted(str(settings["shard"]) for _, settings in shards)
    count = shard_of(given[0])[1]
    if count == 1:
        whole = f"{folder}, which holds the whole evaluation"
        raise InputError(whole, "the shards of one", "use it as it is: there is nothing to merge")
    wanted = [f"{i}/{count}" for i in range(count)]
    if given != sorted(wanted):
        expected = ", ".join(wanted)
        raise InputError(f"shards {', '.join(given)}", expected, "pass every shard once")
    for other, settings in shards:
        names = [k for k in first if k not in _OWN and first[k] != settings.get(k)]
        if names:
            raise InputError(
                f"{other}, which differs from {folder} in {', '.join(names)}",
                "shards of one evaluation",
                "merge only runs with the same model, data and settings",
            )


def _joined(parts: Sequence[_Part], command: str) -> Header:
    """The header of the whole: shard i has the examples i, i + k, ... in order."""
    total = parts[0].header.settings["n"]
    settings = parts[0].header.settings | {"shard": "0/1"}
    about = parts[0].header.about | {"command": command}
    about["date"] = max(part.header.about["date"] for part in parts)
    ids, labels = [0] * total, [0] * total
    for part in parts:
        ids[part.index :: part.count] = part.header.ids
        labels[part.index :: part.count] = part.header.labels
    if len(set(ids)) < total:
        remedy = "evaluate the shards with the same ids"
        raise InputError("shards that share examples", f"{total} different ids", remedy)
    return Header(settings, about, ids, labels)


def _pictures(parts: Sequence[_Part]) -> Any:
    """Clean and adversarial images of all shards, interleaved; None twice where one has none."""
    if not all((part.folder / PICTURES).exists() for part in parts):
        return None, None
    total = parts[0].header.settings["n"]
    whole: list[Tensor] = []
    for part in parts:
        pair = read_pictures(part.folder, part.header.ids)
        if not whole:
            whole = [torch.empty(total, *images.shape[1:], dtype=images.dtype) for images in pair]
        for target, images in zip(whole, pair, strict=True):
            target[part.index :: part.count] = images
    return tuple(whole)
