"""The record of a run: one line of JSON per image, written when the image is done.

A folder holds `settings.json`, what the lines depend on, and `records.jsonl`, only ever appended
to, each line with a checksum. A kill or a full disk costs at most the line being written, and the
run goes on with the images that have none.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor

from torchproof.core.errors import FileError, ResumeError
from torchproof.core.files import write, writing

log = logging.getLogger(__name__)

SCHEMA = "torchproof.smoothing-ledger/1"
SETTINGS, RECORDS = "settings.json", "records.jsonl"
_RESUME = "make room and run again with resume=True: what is recorded is kept"

Record = dict[str, Any]


@dataclass
class Ledger:
    """Records by example id, in memory and, with a stream, appended to a file."""

    records: dict[int, Record] = field(default_factory=dict)
    path: Path | None = None
    stream: BinaryIO | None = None
    size: int = 0

    @classmethod
    def open(cls, settings: dict[str, Any], folder: Path | None, resume: bool) -> Ledger:
        """A new ledger, or the one in the folder where `resume` allows it.

        Raises FileError (a run is there already, damage, no permission, another process writes) and
        ResumeError naming the settings that differ.
        """
        if folder is None:
            return cls()
        present = [name for name in (SETTINGS, RECORDS) if (folder / name).exists()]
        if present and not resume:
            remedy = "pass resume=True to go on with it, or another folder"
            raise FileError(f"{folder}, which has {', '.join(present)}", "a new folder", remedy)
        if present:
            _require(_settings(folder), settings)
        else:
            content = json.dumps({"schema": SCHEMA, "settings": settings}, indent=1) + "\n"
            write(folder / SETTINGS, content.encode(), _RESUME)
        ledger = cls(path=folder / RECORDS)
        ledger._attach(folder / RECORDS)
        return ledger

    def _attach(self, path: Path) -> None:
        """Reads what is there, cuts an unfinished last line off, and appends from now on."""
        with writing(path, _RESUME):
            stream = cast(BinaryIO, path.open("ab", buffering=0))
        try:
            _lock(stream, path)
            found, self.size = read_records(path)
            if self.size < path.stat().st_size:
                log.warning("%s: the last line was unfinished and is left out", path)
            stream.truncate(self.size)
        except BaseException:
            stream.close()
            raise
        self.records = {record["id"]: record for record in found}
        self.stream = stream

    def add(self, record: Record) -> None:
        """Appends a record; raises FileError on a full disk, what was there before stays."""
        if self.stream is not None and self.path is not None:
            line = _encode(record)
            with writing(self.path, _RESUME):
                try:
                    left = memoryview(line)
                    while len(left):  # an unbuffered file may take fewer bytes than it is given
                        left = left[self.stream.write(left) :]
                    os.fsync(self.stream.fileno())
                except OSError:
                    self.stream.truncate(self.size)
                    raise
            self.size += len(line)
        self.records[record["id"]] = record

    def close(self) -> None:
        """Releases the file; the records stay readable."""
        if self.stream is not None:
            self.stream.close()
        self.stream = None


def read_records(path: Path) -> tuple[list[Record], int]:
    """The records of a file and the bytes that hold them, without a damaged or unfinished last
    line. Raises FileError naming any other damaged line, and for no file.
    """
    remedy = "restore the file from a copy, or run again into another folder"
    try:
        *lines, tail = path.read_bytes().split(b"\n")
    except OSError as error:
        raise FileError(f"{path} ({error.strerror})", "a file of records", remedy) from error
    records, size = [], 0
    for number, line in enumerate(lines, 1):
        record = _decode(line)
        if record is None and number == len(lines) and not tail:
            break
        if record is None:
            given = f"{path}, damaged in line {number} of {len(lines)}"
            raise FileError(given, "lines that agree with their checksums", remedy)
        records.append(record)
        size += len(line) + 1
    return records, size


def fingerprint(named: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 over tensors and their names, types and shapes, wherever they live."""
    digest = hashlib.sha256()
    for name, tensor in named:
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _encode(record: Record) -> bytes:
    body = json.dumps(record, separators=(",", ":"), allow_nan=False)
    return f'{body[:-1]},"crc":"{zlib.crc32(body.encode()):08x}"}}\n'.encode()


def _decode(line: bytes) -> Record | None:
    """The record of a line, None where it is damaged."""
    body, mark, crc = line.rpartition(b',"crc":"')
    if not mark or crc != b'%08x"}' % zlib.crc32(body + b"}"):
        return None
    return cast(Record, json.loads(body + b"}"))


def _settings(folder: Path) -> dict[str, Any]:
    path, remedy = folder / SETTINGS, "give the folder of such a run, or a new one"
    try:
        content = json.loads(path.read_bytes())
        if content["schema"] != SCHEMA:
            raise ValueError("of another schema")
        return dict(content["settings"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FileError(f"{path} ({error})", "the settings of a smoothing run", remedy) from error


def _require(stored: dict[str, Any], settings: dict[str, Any]) -> None:
    keys = sorted(stored.keys() | settings.keys())
    shown = [
        f"{key}: {settings.get(key)} now, {stored.get(key)} stored"
        for key in keys
        if settings.get(key) != stored.get(key)
    ]
    if shown:
        raise ResumeError(
            f"a run with other settings ({'; '.join(shown)})",
            "the settings of the run that is resumed",
            "repeat them, or run into another folder",
        )


def _lock(stream: BinaryIO, path: Path) -> None:
    """Held until the stream is closed or the process ends."""
    try:
        import fcntl
    except ImportError:  # Windows: two writers are then the user's care
        return
    try:
        fcntl.flock(stream.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        given = f"{path}, which another process is writing"
        raise FileError(given, "a folder of its own for each run", "wait for it to end") from None
