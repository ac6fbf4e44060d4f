"""A run directory: config.json, metrics.jsonl, checkpoint.safetensors, and the networks when the
run has ended.

Only process 0 writes. Processes read the same folder.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchproof.core.errors import FileError, InputError, ResumeError
from torchproof.core.files import write, writing
from torchproof.train import checkpoint, distributed
from torchproof.train.record import Record

Save = Callable[[nn.Module, Path, dict[str, Any]], Any]


@dataclass(frozen=True)
class Folder:
    """Where a run is kept. `save(model, path, card)` writes a network beside its card."""

    path: Path
    identity: dict[str, Any]
    save: Save | None

    @property
    def checkpoint(self) -> Path:
        return self.path / "checkpoint.safetensors"

    @property
    def config(self) -> Path:
        return self.path / "config.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    def claim(self, resume: bool) -> None:
        """Makes the folder this run's.

        Raises InputError for a folder that holds a run which is not to be resumed, ResumeError for
        one whose settings differ, FileError where the folder cannot be written.
        """
        if self.config.exists():
            if not resume:
                remedy = "resume it, or choose another folder"
                raise InputError(
                    f"{self.path}, which holds a run", "a folder without a run", remedy
                )
            compare(_stored(self.config), self.identity)
        distributed.wait()
        if distributed.rank() == 0:
            with writing(self.path):
                self.path.mkdir(parents=True, exist_ok=True)
            write(self.config, (json.dumps(self.identity, indent=2) + "\n").encode())

    def keep(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """A new generation of the checkpoint."""
        checkpoint.write(self.checkpoint, tensors, facts)

    def rewrite(self, records: list[Record]) -> None:
        """Makes metrics.jsonl hold exactly these records: a killed run may have left one less, or
        half a line.
        """
        write(self.metrics, "".join(r.model_dump_json() + "\n" for r in records).encode())

    def append(self, record: Record) -> None:
        """One more line of metrics.jsonl."""
        with open(self.metrics, "a", encoding="utf-8") as file:
            file.write(record.model_dump_json() + "\n")

    def store(self, model: nn.Module, name: str, card: dict[str, Any]) -> None:
        """A network and its card under `name`, by the caller's `save`."""
        if self.save is not None:
            self.save(model, self.path / f"{name}.safetensors", card)


def _stored(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("no table")
        return content
    except (OSError, ValueError) as error:
        raise FileError(
            f"{path} ({error})", "the settings of a run", "choose another folder"
        ) from error


def _flat(table: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in table.items():
        nested = isinstance(value, dict)
        out |= _flat(value, f"{path}{key}.") if nested else {f"{path}{key}": value}
    return out


def compare(stored: dict[str, Any], given: dict[str, Any]) -> None:
    """Raises ResumeError that names every key in which two runs differ."""
    old, new = _flat(stored), _flat(json.loads(json.dumps(given)))
    differing = sorted(k for k in old.keys() | new.keys() if old.get(k) != new.get(k))
    if differing:
        shown = "; ".join(f"{k} was {old.get(k)!r}, is {new.get(k)!r}" for k in differing)
        remedy = "resume with the settings of the stored run, or train in another folder"
        raise ResumeError(shown, "the settings of the stored run", remedy)


def described(thing: object) -> str:
    """A repr that is the same in every process: without addresses."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(thing))


def digest(tensors: Mapping[str, Tensor], content: bool = True) -> str:
    """SHA-256 over names, dtypes and shapes, and over the values unless `content` is False."""
    total = hashlib.sha256()
    for name, tensor in tensors.items():
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        if content:
            plain = tensor.detach().cpu().contiguous().reshape(-1)
            total.update(plain.view(torch.uint8).numpy().data)
    return total.hexdigest()
