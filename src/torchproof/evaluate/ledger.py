"""The ledger of an evaluation: what each attack found for each example, written as it is found.

A folder holds `settings.json` (what the records are about), `records.jsonl` (one line per example
and attack, with a checksum, only ever appended to) and `images.bin` (see `images`), in which an
image stands before the record that speaks of it. So a kill, or a disk that fills up, costs at most
the line that was being written; the run is resumed by doing what has no record.
"""

from __future__ import annotations

import json
import logging
import os
import time
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

from torchproof.core.errors import FileError, ResumeError
from torchproof.core.files import write, writing
from torchproof.evaluate.images import RESUME, Images, write_all

log = logging.getLogger(__name__)

SCHEMA = "torchproof.ledger/1"
SETTINGS, RECORDS, IMAGES, RESULT = "settings.json", "records.jsonl", "images.bin", "result.json"
_SYNC_SECONDS = 1.0  # between forced writes to the disk; they matter to a power cut only
_PREFIX = b'{"crc":"'
_LOCKED = "another process is writing it"

Record = dict[str, Any]


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
        keys = sorted(self.settings.keys() | settings.keys())
        shown = [
            f"{key}: {_short(settings.get(key))} now, {_short(self.settings.get(key))} stored"
            for key in keys
            if self.settings.get(key) != settings.get(key)
        ]
        if shown:
            raise ResumeError(
                f"a run with other settings ({'; '.join(shown)})",
                "the settings of the run that is resumed",
                "repeat them, or evaluate into another folder",
            )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 120 else text[:117] + "..."


def encode(record: Record) -> bytes:
    """One line: the record as JSON, with the CRC-32 of the rest as its first entry."""
    body = json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    return _PREFIX + b"%08x" % zlib.crc32(body) + b'",' + body[1:] + b"\n"


def decode(line: bytes) -> Record | None:
    """The record of a line without its newline, None where it is damaged."""
    head = len(_PREFIX)
    body = b"{" + line[head + 10 :]
    sound = line[:head] == _PREFIX and line[head + 8 : head + 10] == b'",'
    if not sound or line[head : head + 8] != b"%08x" % zlib.crc32(body):
        return None
    return cast(Record, json.loads(body))


def read_records(path: Path) -> tuple[list[Record], int]:
    """The records of a file and the number of bytes that hold them.

    A last line that is damaged or has no end is left out: its writer was interrupted. Raises
    FileError naming the line where any other is damaged.
    """
    lines = path.read_bytes().split(b"\n")
    whole, tail = lines[:-1], lines[-1]
    records, size = [], 0
    for number, line in enumerate(whole, 1):
        record = decode(line)
        if record is None and number == len(whole) and not tail:
            break
        if record is None:
            raise FileError(
                f"{path}, damaged in line {number} of {len(whole)}",
                "lines that agree with their checksums",
                "restore the file from a copy, or evaluate again into another folder",
            )
        records.append(record)
        size += len(line) + 1
    return records, size


@dataclass
class Ledger:
    """Records by example id and attack, in memory and appended to `stream`; the last one counts."""

    header: Header
    folder: Path | None = None
    stream: BinaryIO | None = None
    images: Images | None = None
    records: dict[int, dict[str, Record]] = field(default_factory=dict)
    size: int = 0
    synced: float = 0.0

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
        ledger._attach(folder / RECORDS)
        return ledger

    def _attach(self, path: Path) -> None:
        """Reads what is there, cuts an unfinished last line off, and appends from now on."""
        with writing(path, RESUME):
            stream = cast(BinaryIO, path.open("ab", buffering=0))
        try:
            _lock(stream, path)
            records, self.size = read_records(path)
            if self.size < path.stat().st_size:
                log.warning("%s: the last line was unfinished and is left out", path)
            stream.truncate(self.size)
        except BaseException:
            stream.close()
            raise
        self.stream = stream
        self._remember(records)

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
        if self.stream is not None and self.folder is not None:
            data = b"".join(map(encode, records))
            with writing(self.folder / RECORDS, RESUME):
                try:
                    write_all(self.stream, data)
                except OSError:
                    self.stream.truncate(self.size)
                    raise
            self.size += len(data)
            if time.monotonic() - self.synced > _SYNC_SECONDS:
                self.sync()
        self._remember(records)

    def sync(self) -> None:
        """Images first, then the records about them, on the disk."""
        if self.images is not None:
            self.images.sync()
        if self.stream is not None:
            os.fsync(self.stream.fileno())
        self.synced = time.monotonic()

    def close(self) -> None:
        """Releases the files; the records stay readable."""
        for stream in (self.stream, self.images):
            if stream is not None:
                stream.close()
        self.stream = None


def _lock(stream: BinaryIO, path: Path) -> None:
    """Held until the stream is closed or the process ends, however it ends."""
    try:
        import fcntl
    except ImportError:  # Windows: two writers are then the user's care
        return
    try:
        fcntl.flock(stream.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise FileError(
            f"{path}: {_LOCKED}", "a folder of its own for each run", "wait for it to end"
        ) from None
