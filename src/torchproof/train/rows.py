"""Rows of a data set: the split into training and held-out rows, and the order in which an epoch
visits them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from torchproof.core import keys
from torchproof.core.errors import InputError
from torchproof.train.settings import Settings


@dataclass(frozen=True)
class Rows:
    """Some rows of a data set: x (N, C, H, W), y (N,), and the chosen row numbers `index` (n,),
    int64 on the CPU.
    """

    x: Tensor
    y: Tensor
    index: Tensor

    def __len__(self) -> int:
        return len(self.index)

    def part(self, chosen: Tensor | slice) -> Rows:
        """Those of the rows that `chosen`, positions among them, picks."""
        return replace(self, index=self.index[chosen])

    def pieces(self, settings: Settings) -> Iterator[Rows]:
        """All rows, in pieces of a batch."""
        size = settings.batch_size
        return (self.part(slice(i, i + size)) for i in range(0, len(self), size))

    def tensors(self, device: torch.device, dtype: torch.dtype | None) -> tuple[Tensor, Tensor]:
        """Images and labels of the rows, on `device`; images in `dtype`, if there is one."""
        # copies whole rows, for which x[index] takes five times as long
        x, y = (t.index_select(0, self.index.to(t.device)) for t in (self.x, self.y))
        return x.to(device, dtype or x.dtype), y.to(device)


def held_out_size(n: int, wanted: int | None) -> int:
    """How many of n rows are held out: `wanted`, by default a tenth, at most 1,000.

    Raises InputError when no training rows would be left.
    """
    size = min(n // 10, 1000) if wanted is None else wanted
    if size >= n:
        raise InputError(
            f"{size} held-out examples of {n}",
            f"fewer than {n}",
            "hold out less, or bring more data",
        )
    return size


def with_extra(train: Rows, x: Tensor, y: Tensor) -> Rows:
    """The rows, and after them all of (x, y).

    Raises InputError for images of another shape or labels that are none of theirs.
    """
    if x.shape[1:] != train.x.shape[1:] or len(x) != len(y) or not len(x):
        given = f"extra data of {tuple(x.shape)} with {len(y)} labels"
        remedy = "resize the extra images, and give each a label"
        raise InputError(given, f"images {tuple(train.x.shape[1:])}, one label each", remedy)
    if int(y.min()) < 0 or int(y.max()) > int(train.y.max()):
        given = f"extra labels from {int(y.min())} to {int(y.max())}"
        remedy = "number the classes as the training data do"
        raise InputError(given, f"0 to {int(train.y.max())}", remedy)
    both = torch.cat([train.x, x.to(train.x)]), torch.cat([train.y, y.to(train.y)])
    return Rows(*both, torch.cat([train.index, torch.arange(len(train.x), len(both[0]))]))


def split(x: Tensor, y: Tensor, seed: int, held_out: int | None) -> tuple[Rows, Rows]:
    """Training and held-out rows, disjoint, in the order of the data set; the choice is keyed by
    `seed`.
    """
    order = keys.permutation(len(x), seed, "held-out")
    size = held_out_size(len(x), held_out)
    return Rows(x, y, order[size:].sort().values), Rows(x, y, order[:size].sort().values)


def steps_of(n: int, batch_size: int, share: float = 0.0) -> int:
    """Steps in an epoch of n rows, of which each batch holds all but a `share` of other rows."""
    return max(1, math.ceil(n / (batch_size * (1 - share)) - 1e-9))


def beside(n: int, share: float) -> int:
    """How many rows of a second source an epoch takes that sees n rows of the first."""
    return round(n * share / (1 - share))


def order(
    n: int, batch_size: int, seed: int, epoch: int, extra: int = 0, share: float = 0.0
) -> tuple[Tensor, ...]:
    """The global batches of an epoch as positions; every row once, batch sizes equal up to one.

    A rest that is no full batch is spread over all batches: a last batch of two images would have
    batch statistics of its own. Positions n to n + extra - 1 are rows of a second source, which
    make up `share` of each batch; an epoch is over when the first n rows are.
    """
    steps = steps_of(n, batch_size, share)
    batches = keys.permutation(n, seed, "order", epoch).tensor_split(steps)
    if not extra:
        return batches
    wanted = beside(n, share)
    rounds = [keys.permutation(extra, seed, "extra", epoch, i) for i in range(-(-wanted // extra))]
    more = (n + torch.cat([*rounds, torch.arange(0)])[:wanted]).tensor_split(steps)
    return tuple(torch.cat(both) for both in zip(batches, more, strict=True))
