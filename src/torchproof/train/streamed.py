"""Training data that are read while they are trained on, as the loop sees them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeGuard

import torch
from torch import Tensor

from torchproof.core.checks import check
from torchproof.core.errors import InputError
from torchproof.train import distributed
from torchproof.train.rows import Rows
from torchproof.train.settings import Settings


class Stream(Protocol):
    """Batches by (seed, epoch), from any batch on, and the same whenever they are asked for.

    name: what makes it this stream; held: images and labels in memory, by which the checkpoint is
    chosen, None for none.
    """

    @property
    def name(self) -> str: ...

    @property
    def held(self) -> tuple[Tensor, Tensor] | None: ...

    def steps(self, batch_size: int) -> int:
        """Batches of an epoch."""
        ...

    def batches(
        self, batch_size: int, seed: int, epoch: int, first: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[tuple[Tensor, Tensor, Tensor, int]]:
        """An epoch from batch `first` on: images, labels and ids of the rows rank, rank + world,
        ... of each batch, and how many rows the batch has in all.
        """
        ...


def is_stream(data: Any) -> TypeGuard[Stream]:
    """Is it a stream, and not images and labels?"""
    return callable(getattr(data, "batches", None))


@dataclass(frozen=True)
class Portion:
    """This process's rows of a global batch of `count`: images, labels, ids. len() is the batch's,
    as that of the positions which stand for a batch in memory.
    """

    x: Tensor
    y: Tensor
    index: Tensor
    count: int

    def __len__(self) -> int:
        return self.count

    def tensors(self, device: torch.device, dtype: torch.dtype | None) -> tuple[Tensor, Tensor]:
        """Images and labels on `device`; images in `dtype`, if there is one."""
        return self.x.to(device, dtype or self.x.dtype), self.y.to(device)


@dataclass(frozen=True)
class Streamed:
    """The training rows of a run that come from a stream."""

    stream: Stream

    def epoch(self, settings: Settings, epoch: int, first: int) -> Iterator[Portion]:
        """This process's rows of the batches of an epoch, from batch `first` on.

        Raises InputError for images or labels that cannot be meant.
        """
        share = (distributed.rank(), distributed.world())
        return self._portions(settings, epoch, first, *share)

    def pieces(self, settings: Settings) -> Iterator[Portion]:
        """All rows once, in pieces of a batch, whatever the processes."""
        return self._portions(settings, 0, 0, 0, 1)

    def _portions(
        self, settings: Settings, epoch: int, first: int, rank: int, world: int
    ) -> Iterator[Portion]:
        made = self.stream.batches(settings.batch_size, settings.seed, epoch, first, rank, world)
        for x, y, ids, count in made:
            if count < world:
                remedy = "make larger batches, or start fewer processes"
                given = f"a batch of {count} for {world} processes"
                raise InputError(given, "at least one row for each", remedy)
            check(x, y)
            yield Portion(x, y, ids, count)

    def __getattr__(self, name: str) -> Any:
        """What methods ask of rows in memory, and a stream cannot answer."""
        if name.startswith("__"):
            raise AttributeError(name)
        raise _unseen()

    def __len__(self) -> int:
        raise _unseen()


def _unseen() -> InputError:
    return InputError(
        "a method that looks at all training rows, on a stream",
        "training data in memory, or a method that sees batches alone",
        "load the data, or choose another method, such as AT or TRADES",
    )


def held_rows(stream: Stream, settings: Settings) -> Rows:
    """The held-out rows of a stream; raises InputError where the settings ask for another number:
    nothing of the stream itself is held out.
    """
    none = torch.empty(0, 1, 1, 1), torch.empty(0, dtype=torch.int64)
    x, y = none if stream.held is None else stream.held
    if settings.held_out not in (None, len(x)):
        given = f"held_out = {settings.held_out} on a stream that brings {len(x)} held-out rows"
        remedy = "pass them to the stream (held=(x, y)), and leave held_out out"
        raise InputError(given, f"{len(x)}, or none", remedy)
    return Rows(x, y, torch.arange(len(x)))
