"""What has been answered so far, in a file where there is a folder for it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from torchproof.core.errors import FileError
from torchproof.core.files import write
from torchproof.core.journal import Journal, Record, require_same

SETTINGS, RECORDS = "settings.json", "records.jsonl"
SCHEMA = "torchproof.survey-ledger/1"
_REMEDY = "make room and run again with --resume: what is recorded is kept"


class Key(NamedTuple):
    """What a record is about."""

    network: str
    threat: str
    method: str
    image: int


@dataclass
class Notes:
    """Records by key, in memory and, with a journal, in a file."""

    records: dict[Key, Record] = field(default_factory=dict)
    journal: Journal | None = None

    @classmethod
    def open(cls, settings: Mapping[str, Any], folder: Path | None, resume: bool) -> Notes:
        """New ones, or those of the folder where `resume` allows it.

        Raises FileError (a survey is there already, damage, another process writes) and ResumeError
        naming the settings that differ.
        """
        if folder is None:
            return cls()
        path = folder / SETTINGS
        present = [name for name in (SETTINGS, RECORDS) if (folder / name).exists()]
        if present and not resume:
            given = f"{folder}, which has {', '.join(present)}"
            raise FileError(
                given, "a new folder", "add --resume to go on with it, or choose another"
            )
        if present:
            require_same(_stored(path), settings)
        else:
            content = json.dumps({"schema": SCHEMA, "settings": settings}, indent=1) + "\n"
            write(path, content.encode(), _REMEDY)
        journal, found = Journal.open(folder / RECORDS, _REMEDY)
        return cls({Key(*record["key"]): record for record in found}, journal)

    def add(self, key: Key, **content: Any) -> Record:
        """Appends a record, on the disk when this returns; raises FileError on a full disk."""
        record = {"key": list(key), **content}
        if self.journal is not None:
            self.journal.add([record])
            self.journal.sync()
        self.records[key] = record
        return record

    def close(self) -> None:
        if self.journal is not None:
            self.journal.close()
        self.journal = None


def _stored(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
        if content["schema"] != SCHEMA:
            raise ValueError("of another schema")
        return dict(content["settings"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        remedy = "give the folder of such a run, or a new one"
        raise FileError(f"{path} ({error})", "the settings of a survey", remedy) from error
