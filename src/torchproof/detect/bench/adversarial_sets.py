"""Adversarial images that are made once and kept: in memory, and in a folder where there is one."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from torchproof.core.errors import FileError
from torchproof.core.files import write
from torchproof.core.keys import seed_of
from torchproof.detect.bench.attack_rows import AttackRow
from torchproof.detect.bench.splits import Images
from torchproof.detect.parts.logits import wrong


@dataclass(frozen=True)
class Attacked:
    """What an attack made of N images: x (N, C, H, W); fooled (N,) bool, which of them the
    classifier gets wrong; changed (N,) bool, which differ from the clean ones.
    """

    x: Tensor
    fooled: Tensor
    changed: Tensor

    @property
    def failed(self) -> Tensor:
        """(N,) bool: changed, and classified rightly still."""
        return self.changed & ~self.fooled


@dataclass
class AdversarialSets:
    """The sets of one classifier, made when first asked for. folder: where they are kept, None for
    memory only; a file holds a digest of what it was made from.
    """

    model: nn.Module
    identity: str
    seed: int
    batch_size: int
    folder: Path | None = None
    say: Callable[[str], None] = lambda text: None
    known: dict[str, Attacked] = field(default_factory=dict)

    def get(self, row: AttackRow, part: str, images: Images) -> Attacked:
        """Raises FileError for a file that is damaged or of other images."""
        name = f"{part} {row.name}"
        if name not in self.known:
            self.known[name] = self._stored(row, part, images) or self._made(row, part, images)
        return self.known[name]

    def _made(self, row: AttackRow, part: str, images: Images) -> Attacked:
        seed = seed_of(self.seed, part)
        made = row(self.model, images.x, images.y, seed, self.batch_size)
        found = self._judged(made, images)
        self.say(f"{row.name} on {len(images)} images ({part}): {int(found.fooled.sum())} fooled")
        path = self._path(row, part)
        if path is not None:
            packed = io.BytesIO()
            np.savez_compressed(packed, x=made.numpy(), key=self._key(row, part, images))
            write(path, packed.getvalue())
        return found

    def _judged(self, made: Tensor, images: Images) -> Attacked:
        fooled = wrong(self.model, made, images.y, self.batch_size)
        return Attacked(made, fooled, (made != images.x).flatten(1).any(1))

    def _stored(self, row: AttackRow, part: str, images: Images) -> Attacked | None:
        path = self._path(row, part)
        if path is None or not path.exists():
            return None
        remedy = "remove that file, and it is made again"
        try:
            with np.load(path, allow_pickle=False) as packed:
                made, key = torch.from_numpy(packed["x"]), str(packed["key"])
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise FileError(f"{path} ({error})", "adversarial images", remedy) from error
        if key != self._key(row, part, images):
            raise FileError(f"{path}, made of other images", "those of this run", remedy)
        return self._judged(made, images)

    def _path(self, row: AttackRow, part: str) -> Path | None:
        plain = re.sub(r"[^\w.=]+", "-", f"{part} {row.name}").strip("-").lower()
        return None if self.folder is None else self.folder / f"{plain}.npz"

    def _key(self, row: AttackRow, part: str, images: Images) -> str:
        """Of everything that decides the images."""
        told = f"{self.identity} {self.seed} {part} {row.name} {row.about} {images.rows.tolist()}"
        return hashlib.sha256(told.encode()).hexdigest()
