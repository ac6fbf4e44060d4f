"""Data sets that are read while they are used: a shuffle buffer, and one batch decoded at a time.

A `Source` has its examples in parts (shards), in a fixed order, and hands out small handles; only
`Source.read` decodes. A `Stream` shuffles handles: so an epoch can be taken up in its middle
without decoding what came before, and a process decodes its own share alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from torchproof.core import keys
from torchproof.core.checks import check
from torchproof.core.errors import FileError, InputError

T = TypeVar("T")
Pair = tuple[Tensor, Tensor]
Portion = tuple[Tensor, Tensor, Tensor, int]
"""A process's rows of a batch: images (B, C, H, W), labels (B,), ids (B,), and how many rows the
whole batch has. Of W processes, number r has the rows r, r + W, r + 2 W, ...
"""
_PART = 1 << 32  # example j of part i has the id i * _PART + j
_BLOCK = 4096  # places in the buffer drawn at a time


class Source(Protocol):
    """Examples in parts, in a fixed order; len() is how many an epoch has."""

    @property
    def name(self) -> str:
        """What makes it this source: a resumed run refuses another."""
        ...

    @property
    def parts(self) -> int: ...

    def __len__(self) -> int: ...

    def walk(self, part: int) -> Iterator[Any]:
        """What it takes to read each example of a part, one after the other: cheap and small."""
        ...

    def read(self, handles: Sequence[Any]) -> Pair:
        """Images (B, C, H, W), float in [0, 1], and labels (B,) int64."""
        ...


@dataclass(frozen=True)
class Stream:
    """A source as training and evaluation take it. buffer: how many handles are held and drawn
    from, 1 for no shuffling within a part; held: (x, y) in memory, which are not in the source, and
    by which training chooses its checkpoint.

    The order of an epoch is keyed by (seed, epoch): the parts are permuted, and each example that
    leaves the buffer is drawn from what is in it. Raises InputError for a buffer below 1 and an
    empty source.
    """

    source: Source
    buffer: int = 10_000
    held: Pair | None = None

    def __post_init__(self) -> None:
        if self.buffer < 1 or len(self.source) < 1:
            given = f"a buffer of {self.buffer} on {len(self.source)} examples"
            raise InputError(given, "at least one of each", "raise it, or look at the source")
        if self.held is not None:
            check(*self.held)

    @property
    def name(self) -> str:
        return f"{self.source.name}, buffer {self.buffer}"

    def __len__(self) -> int:
        return len(self.source)

    def steps(self, batch_size: int) -> int:
        """Batches of an epoch."""
        return -(-len(self) // batch_size)

    def batches(
        self, batch_size: int, seed: int, epoch: int, first: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[Portion]:
        """An epoch from its batch number `first` on, this process's rows of each batch. Sizes of
        batches are equal up to one.

        Raises FileError for a source that has fewer examples than it said.
        """
        count, steps = len(self), self.steps(batch_size)
        sizes = [count // steps + (number < count % steps) for number in range(steps)]
        walked = islice(self._order(seed, epoch), sum(sizes[:first]), None)
        for size in sizes[first:]:
            taken = self._taken(walked, size)
            own = taken[rank::world]
            x, y = self.source.read([handle for _, handle in own])
            yield x, y, torch.tensor([i for i, _ in own], dtype=torch.int64), size

    def chunks(self, size: int, first: int = 0) -> Iterator[Pair]:
        """All examples in the order of the source, `size` at a time, from chunk `first` on."""
        for read in self.unread(size, first):
            yield read()

    def unread(self, size: int, first: int = 0) -> Iterator[Callable[[], Pair]]:
        """As `chunks`, each as a function that decodes it: one that is not called costs little."""
        begun = range(first * size, len(self), size)
        walked = islice(self._walk(range(self.source.parts)), first * size if begun else 0, None)
        for start in begun:
            taken = self._taken(walked, min(size, len(self) - start))
            yield partial(self.source.read, [handle for _, handle in taken])

    def _taken(self, walked: Iterator[tuple[int, Any]], size: int) -> list[tuple[int, Any]]:
        taken = list(islice(walked, size))
        if len(taken) < size:
            given = f"{self.source.name}, which ends before its {len(self)} examples"
            raise FileError(given, "as many as were counted", "restore it, or count it again")
        return taken

    def _walk(self, parts: Iterable[int]) -> Iterator[tuple[int, Any]]:
        return (
            (part * _PART + place, handle)
            for part in parts
            for place, handle in enumerate(self.source.walk(part))
        )

    def _order(self, seed: int, epoch: int) -> Iterator[tuple[int, Any]]:
        parts = keys.permutation(self.source.parts, seed, "shards", epoch).tolist()
        return shuffled(self._walk(parts), self.buffer, seed, epoch)


def shuffled(items: Iterator[T], size: int, seed: int, epoch: int) -> Iterator[T]:
    """Every item once: each is drawn, keyed by (seed, epoch), from `size` that are waiting; the
    next one takes its place. What waits in the end comes in a keyed order.
    """
    waiting = list(islice(items, size))
    for item, place in zip(items, _places(size, seed, epoch), strict=False):
        out, waiting[place] = waiting[place], item
        yield out
    for place in keys.permutation(len(waiting), seed, "buffer", epoch).tolist():
        yield waiting[place]


def _places(size: int, seed: int, epoch: int) -> Iterator[int]:
    """Numbers below `size` without end."""
    key, block = keys.mix(seed, "buffer", epoch), 0
    while True:
        yield from keys.integers(key, block, size, (_BLOCK,))[0].tolist()
        block += 1


@dataclass(frozen=True)
class Batches:
    """Batches that somebody else makes, such as a torch DataLoader: make(epoch) answers with an
    iterable of (x, y), the same each time for the same epoch; `count`: batches of an epoch.

    A run that is resumed asks for the epoch again and passes over what it has seen. Every process
    makes the whole batches and takes its rows. `settings.batch_size` should say their size.
    """

    make: Callable[[int], Iterable[Pair]]
    count: int
    name: str = "batches"
    held: Pair | None = None

    def __post_init__(self) -> None:
        if self.count < 1:
            remedy = "say how many batches make an epoch"
            raise InputError(f"{self.count} batches", "at least one", remedy)
        if self.held is not None:
            check(*self.held)

    def steps(self, batch_size: int) -> int:
        """Batches of an epoch, whatever the batch size."""
        return self.count

    def batches(
        self, batch_size: int, seed: int, epoch: int, first: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[Portion]:
        """As of `Stream.batches`; row j of batch i has the id i * 2^32 + j."""
        number = first
        for x, y in islice(self.make(epoch), first, self.count):
            ids = number * _PART + torch.arange(len(x))
            yield x[rank::world], y[rank::world], ids[rank::world], len(x)
            number += 1
        if number < self.count:
            given = f"{self.name} with {number} batches in epoch {epoch + 1}"
            raise InputError(given, f"{self.count}, as was said", "correct the count")
