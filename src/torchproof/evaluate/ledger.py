"""The ledger of an evaluation: what each attack found for each example, written as it is found.

A folder holds `settings.json` (what the records are about), `records.jsonl` (one line per example
and attack, with a checksum, only ever appended to) and `images.bin` (see `images`), in which an
image stands before the record that speaks of it. So a kill, or a disk that fills up, costs at most
the line that was being written; the run is resumed by doing what has no record.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torchproof.core.errors import FileError
from torchproof.core.files import write, writing
from torchproof.core.journal import Journal, Record, read_records, require_same
from torchproof.evaluate.images import RESUME, Images

__all__ = ["IMAGES", "RECORDS", "RESULT", "SETTINGS", "Header", "Ledger", "Record", "read_records"]

SCHEMA = "torchproof.ledger/1"
SETTINGS, RECORDS, IMAGES, RESULT = "settings.json", "records.jsonl", "images.bin", "result.json"


@dataclass(frozen=True)
class Header:
    """What the records are about.

    settings: all that decides what the records say, compared before a run is resumed; about: names
    and texts that do not; ids, labels: the examples of this ledger, in order.
    """

    settings: dict[str, Any]
    about: dict[str, Any]
    ids: list[int]
    labels: list[int]

    def write(self, folder: Path) -> None:
        content = {"schema": SCHEMA, **vars(self)}
        entries = (f"{json.dumps(key)}: {json.dumps(value)}" for key, value in content.items())
        write(folder / SETTINGS, ("{" + ",\n".join(entries) + "}\n").encode(), RESUME)

    @classmethod
    def read(cls, folder: Path) -> Header:
        """Raises FileError for a file that is missing, damaged or of another kind."""
        path, expected = folder / SETTINGS, "the settings of a torchproof evaluation"
        remedy = "give the folder of an evaluation, or evaluate into a new one"
        try:
            content = json.loads(path.read_bytes())
            known = content.pop("schema") == SCHEMA
            header = cls(**content)
        except FileNotFoundError:
            raise FileError(f"no {SETTINGS} in {folder}", expected, remedy) from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise FileError(f"{path}, which is damaged ({error})", expected, remedy) from error
        if not known:
            raise FileError(f"{path} of another schema", f'"schema": "{SCHEMA}"', remedy)
        return header

    def require(self, settings: dict[str, Any]) -> None:
        """Raises ResumeError naming the settings that differ from the stored ones."""
        require_same(self.settings, settings)


@dataclass
class Ledger:
    """Records by example id and attack, in memory and in `journal`; the last one counts."""

    header: Header
    folder: Path | None = None
    journal: Journal | None = None
    images: Images | None = None
    records: dict[int, dict[str, Record]] = field(default_factory=dict)

    @classmethod
    def open(cls, header: Header, folder: Path | None, resume: bool) -> Ledger:
        """A new ledger, or the one in `folder` where `resume` allows it and its settings agree.

        Raises FileError (an evaluation is there already, damage, no permission, another process is
        writing) and ResumeError (other settings).
        """
        if folder is None:
            return cls(header)
        present = [name for name in (SETTINGS, RECORDS, RESULT) if (folder / name).exists()]
        if present and not resume:
            remedy = "pass resume=True to go on with it, or another folder"
            raise FileError(f"{folder}, which has {', '.join(present)}", "a new folder", remedy)
        if present:
            Header.read(folder).require(header.settings)
        else:
            with writing(folder, RESUME):
                folder.mkdir(parents=True, exist_ok=True)
            header.write(folder)
        ledger = cls(header, folder)
        ledger.journal, records = Journal.open(folder / RECORDS, RESUME)
        ledger._remember(records)
        return ledger

    def _remember(self, records: Iterable[Record]) -> None:
        for record in records:
            self.records.setdefault(record["id"], {})[record["attack"]] = record

    def of(self, example: int) -> dict[str, Record]:
        """The records of an example by attack."""
        return self.records.get(example, {})

    def drop(self, example: int, attack: str) -> None:
        """Forgets a record, so that what it says is found again."""
        self.records.get(example, {}).pop(attack, None)

    def add(self, records: list[Record]) -> None:
        """Appends records; images they speak of have been written before.

        Raises FileError on a full disk; what was recorded before stays, the rest may be resumed.
        """
        if self.journal is not None:
            self.journal.add(records)
            if self.journal.due:
                self.sync()
        self._remember(records)

    def take(self, folders: Sequence[Path], own: Sequence[str]) -> None:
        """Adds what the ledgers in these folders say and this one does not: parts of the same run,
        which differ in the settings `own` alone. Raises ResumeError for others.
        """
        for folder in folders:
            theirs, ours = (
                {k: v for k, v in header.settings.items() if k not in own}
                for header in (Header.read(folder), self.header)
            )
            require_same(theirs, ours)
            records = read_records(folder / RECORDS)[0]
            self.add([r for r in records if r["attack"] not in self.of(r["id"])])

    def sync(self) -> None:
        """Images first, then the records about them, on the disk."""
        if self.images is not None:
            self.images.sync()
        if self.journal is not None:
            self.journal.sync()

    def close(self) -> None:
        """Releases the files; the records stay readable."""
        for file in (self.journal, self.images):
            if file is not None:
                file.close()
        self.journal = None
