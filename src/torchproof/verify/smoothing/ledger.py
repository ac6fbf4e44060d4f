"""The record of a run: one line per image, written when the image is done.

A folder holds `settings.json`, what the lines depend on, and `records.jsonl` (`core.journal`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torchproof.core.errors import FileError
from torchproof.core.files import write
from torchproof.core.journal import Journal, Record, require_same

SCHEMA = "torchproof.smoothing-ledger/1"
SETTINGS, RECORDS = "settings.json", "records.jsonl"
_RESUME = "make room and run again with resume=True: what is recorded is kept"


@dataclass
class Ledger:
    """Records by example id, in memory and, with a journal, in a file."""

    records: dict[int, Record] = field(default_factory=dict)
    journal: Journal | None = None

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
            require_same(_settings(folder), settings)
        else:
            content = json.dumps({"schema": SCHEMA, "settings": settings}, indent=1) + "\n"
            write(folder / SETTINGS, content.encode(), _RESUME)
        journal, found = Journal.open(folder / RECORDS, _RESUME)
        return cls({record["id"]: record for record in found}, journal)

    def add(self, record: Record) -> None:
        """Appends a record; raises FileError on a full disk, what was there before stays."""
        if self.journal is not None:
            self.journal.add([record])
            self.journal.sync()
        self.records[record["id"]] = record

    def close(self) -> None:
        """Releases the file; the records stay readable."""
        if self.journal is not None:
            self.journal.close()
        self.journal = None


def fingerprint(named: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 over tensors and their names, types and shapes, wherever they live."""
    digest = hashlib.sha256()
    for name, tensor in named:
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _settings(folder: Path) -> dict[str, Any]:
    path, remedy = folder / SETTINGS, "give the folder of such a run, or a new one"
    try:
        content = json.loads(path.read_bytes())
        if content["schema"] != SCHEMA:
            raise ValueError("of another schema")
        return dict(content["settings"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FileError(f"{path} ({error})", "the settings of a smoothing run", remedy) from error
