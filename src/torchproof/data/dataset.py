"""A labelled set of images, ready to be attacked or trained on, and its fingerprint."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from torchproof.core.checks import check
from torchproof.core.errors import InputError

_BLOCK = 4096  # rows hashed at a time, so that a large set is never copied whole


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images x (N, C, H, W), float32 in [0, 1], labels y (N,), int64, and what they are called.

    `classes` names label 0, 1, ...; `name` is what `load` was given, `split` is train, test or all.
    `sha256` is `fingerprint(x, y, levels)`. `levels` says how the source stored a pixel: as a byte
    in 0..levels (255 for most images, 16 for the bundled digits), or as a float where it is 0.
    """

    x: Tensor
    y: Tensor
    classes: tuple[str, ...]
    name: str
    split: str
    sha256: str
    levels: int = 0

    @classmethod
    def of(
        cls, x: Tensor, y: Tensor, classes: Sequence[str], name: str, split: str, levels: int = 0
    ) -> Dataset:
        """The checked set of these images and labels; raises InputError as `check` does."""
        check(x, y, len(classes))
        x = x.float()
        return cls(x, y, tuple(classes), name, split, fingerprint(x, y, levels), levels)

    def __len__(self) -> int:
        return len(self.y)

    def head(self) -> Tensor:
        """The first two images at most, (B, C, H, W)."""
        return self.x[:2]

    def take(self, n: int) -> Dataset:
        """The first n examples; raises InputError unless 1 <= n <= len(self)."""
        if not 1 <= n <= len(self):
            given = f"{n} examples of {self.name} ({self.split})"
            remedy = "ask for fewer, or for another split"
            raise InputError(given, f"a number from 1 to {len(self)}", remedy)
        return self if n == len(self) else self.subset(torch.arange(n))

    def subset(self, rows: Tensor | Sequence[int]) -> Dataset:
        """The examples at `rows` (integers in [0, len(self)), any order); raises InputError."""
        index = torch.as_tensor(rows)
        whole = not index.is_floating_point() and index.dtype != torch.bool
        if not (whole and index.ndim == 1 and len(index)):
            given = f"rows of {index.dtype}, shape {tuple(index.shape)}"
            raise InputError(given, "a list of at least one row number", "use mask.nonzero()[:, 0]")
        if index.min() < 0 or index.max() >= len(self):
            given = f"rows from {int(index.min())} to {int(index.max())}"
            expected = f"row numbers from 0 to {len(self) - 1}"
            raise InputError(given, expected, "choose rows that are there")
        x, y = self.x[index.long()], self.y[index.long()]
        digest = fingerprint(x, y, self.levels)
        return Dataset(x, y, self.classes, self.name, self.split, digest, self.levels)


def fingerprint(x: Tensor, y: Tensor, levels: int = 0) -> str:
    """The sha256, in hexadecimal, of images x (N, C, H, W) and labels y (N,).

    Hashed are, in this order: the line "uint8 N C H W\\n" (or "float32 N C H W\\n"), the pixels row
    by row, the labels as little-endian int64. Pixels that were bytes in the source (levels > 0) are
    hashed as those bytes, round(x * levels), a quarter of the work; others as little-endian
    float32.
    """
    kind = "uint8" if levels else "float32"
    digest = hashlib.sha256(f"{kind} {' '.join(map(str, x.shape))}\n".encode())
    for start in range(0, len(x), _BLOCK):
        block = x[start : start + _BLOCK].detach().cpu()
        pixels = block.mul(levels).round_().to(torch.uint8) if levels else block
        digest.update(np.ascontiguousarray(pixels.numpy(), "u1" if levels else "<f4").data)
    digest.update(np.ascontiguousarray(y.cpu().numpy(), "<i8").data)
    return digest.hexdigest()
