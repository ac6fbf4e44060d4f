"""A file of records that is only ever appended to: one line of JSON each, with a checksum.

A kill, or a disk that fills up, costs at most the line that was being written; a run is resumed by
doing what has no record.
"""

from __future__ import annotations

import json
import logging
import os
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

from torchproof.core.errors import FileError, ResumeError
from torchproof.core.files import writing

log = logging.getLogger(__name__)

_SYNC_SECONDS = 1.0  # between forced writes to the disk; they matter to a power cut only
_PREFIX = b'{"crc":"'

Record = dict[str, Any]


@dataclass
class Journal:
    """The records' file, open and locked; remedy: what to do when it cannot be written."""

    path: Path
    stream: BinaryIO
    size: int
    remedy: str
    synced: float = field(default=0.0)

    @classmethod
    def open(cls, path: Path, remedy: str) -> tuple[Journal, list[Record]]:
        """Reads what is there, cuts an unfinished last line off, and appends from now on.

        Raises FileError for damage, and where another process is writing or nothing can be.
        """
        with writing(path, remedy):
            path.parent.mkdir(parents=True, exist_ok=True)
            stream = cast(BinaryIO, path.open("ab", buffering=0))
        try:
            _lock(stream, path)
            records, size = read_records(path)
            if size < path.stat().st_size:
                log.warning("%s: the last line was unfinished and is left out", path)
            stream.truncate(size)
        except BaseException:
            stream.close()
            raise
        return cls(path, stream, size, remedy), records

    def add(self, records: list[Record]) -> None:
        """Appends records; raises FileError on a full disk, with what was there before in place."""
        data = b"".join(map(encode, records))
        with writing(self.path, self.remedy):
            try:
                write_all(self.stream, data)
            except OSError:
                self.stream.truncate(self.size)
                raise
        self.size += len(data)

    @property
    def due(self) -> bool:
        """Is it time to ask for the disk?"""
        return time.monotonic() - self.synced > _SYNC_SECONDS

    def sync(self) -> None:
        """Everything so far on the disk."""
        os.fsync(self.stream.fileno())
        self.synced = time.monotonic()

    def close(self) -> None:
        """Closes the file; what was written stays."""
        self.stream.close()


def write_all(stream: BinaryIO, data: bytes) -> None:
    """Writes every byte: an unbuffered file may take fewer than it is given."""
    view = memoryview(data)
    while len(view):
        view = view[stream.write(view) :]


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
    FileError for no file, and naming the line where any other is damaged.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        remedy = "give the folder of a run that has begun"
        raise FileError(f"{path} ({error.strerror})", "a file of records", remedy) from error
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
                "restore the file from a copy, or run again into another folder",
            )
        records.append(record)
        size += len(line) + 1
    return records, size


def require_same(stored: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Raises ResumeError naming the settings that differ from the stored ones."""
    shown = [
        f"{key}: {_short(settings.get(key))} now, {_short(stored.get(key))} stored"
        for key in sorted(stored.keys() | settings.keys())
        if stored.get(key) != settings.get(key)
    ]
    if shown:
        raise ResumeError(
            f"a run with other settings ({'; '.join(shown)})",
            "the settings of the run that is resumed",
            "repeat them, or choose another folder",
        )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 120 else text[:117] + "..."


def _lock(stream: BinaryIO, path: Path) -> None:
    """Held until the stream is closed or the process ends, however it ends."""
    try:
        import fcntl
    except ImportError:  # Windows: two writers are then the user's care
        return
    try:
        fcntl.flock(stream.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        given = f"{path}: another process is writing it"
        raise FileError(given, "a folder of its own for each run", "wait for it to end") from None
