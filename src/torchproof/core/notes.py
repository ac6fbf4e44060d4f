"""Records by key, kept in a folder: `settings.json`, what they depend on, and a journal of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from torchproof.core.errors import FileError
from torchproof.core.files import write
from torchproof.core.journal import Journal, Record, require_same

SETTINGS, RECORDS = "settings.json", "records.jsonl"
_REMEDY = "make room and run again with resume=True: what is recorded is kept"

K = TypeVar("K", bound=Hashable)


@dataclass
class Notes(Generic[K]):
    """What is done so far, in memory and, with a folder, on the disk; key: that of a record."""

    key: Callable[[Record], K]
    records: dict[K, Record] = field(default_factory=dict)
    journal: Journal | None = None

    @classmethod
    def open(
        cls, schema: str, key: Callable[[Record], K], settings: Mapping[str, Any],
        folder: Path | None, resume: bool,
    ) -> Notes[K]:  # fmt: skip
        """New ones, or those of the folder where `resume` allows it; schema: whose they are.

        Raises FileError (something is there already, damage, no permission, another process writes)
        and ResumeError naming the settings that differ.
        """
        if folder is None:
            return cls(key)
        present = [name for name in (SETTINGS, RECORDS) if (folder / name).exists()]
        if present and not resume:
            remedy = "pass resume=True (--resume) to go on with it, or another folder"
            raise FileError(f"{folder}, which has {', '.join(present)}", "a new folder", remedy)
        if present:
            require_same(_stored(folder / SETTINGS, schema), settings)
        else:
            content = json.dumps({"schema": schema, "settings": settings}, indent=1) + "\n"
            write(folder / SETTINGS, content.encode(), _REMEDY)
        journal, found = Journal.open(folder / RECORDS, _REMEDY)
        return cls(key, {key(record): record for record in found}, journal)

    def add(self, record: Record) -> None:
        """Appends a record, on the disk when this returns; raises FileError on a full disk, and
        what was there before stays.
        """
        if self.journal is not None:
            self.journal.add([record])
            self.journal.sync()
        self.records[self.key(record)] = record

    def close(self) -> None:
        """Releases the file; the records stay readable."""
        if self.journal is not None:
            self.journal.close()
        self.journal = None


def _stored(path: Path, schema: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
        if content["schema"] != schema:
            raise ValueError("of another schema")
        return dict(content["settings"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        remedy = "give the folder of such a run, or a new one"
        raise FileError(f"{path} ({error})", f"the settings of a {schema}", remedy) from error
