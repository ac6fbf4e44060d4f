"""Memory: how many examples fit into one model call, half as many after it was exhausted."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import torch

from torchproof.core.errors import InputError

log = logging.getLogger(__name__)
_CPU = ("can't allocate memory", "not enough memory", "out of memory")


def exhausted(error: BaseException) -> bool:
    """Does the error say that there was no memory left?"""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    # the allocator of the CPU has no error type of its own
    return isinstance(error, RuntimeError) and any(said in str(error).lower() for said in _CPU)


@cache
def keep_freed_memory() -> None:
    """Teaches glibc, once per process, to keep freed memory: tensors of images come and go at every
    step, and giving each back to the system costs a tenth of an attack on a small network.

    Its threshold for giving back follows the largest block ever freed; this one is never touched,
    so it costs nothing. Elsewhere this has no effect.
    """
    torch.empty(31 << 20, dtype=torch.uint8)  # freed at once


@dataclass
class Room:
    """The largest batch that is believed to fit."""

    slots: int

    def __post_init__(self) -> None:
        if not isinstance(self.slots, int) or isinstance(self.slots, bool) or self.slots < 1:
            remedy = "128 is a good batch size on a CPU"
            raise InputError(f"slots = {self.slots!r}", "a whole number >= 1", remedy)

    def survives(self, work: Callable[[], object]) -> bool:
        """Does the work; False when memory ran out, and then there is room for half as many.

        Any other error passes through, and so does this one when a single example does not fit.
        """
        try:
            work()
            return True
        except (RuntimeError, MemoryError) as error:
            if self.slots == 1 or not exhausted(error):
                raise
        # outside the handler: the error no longer holds on to the frames that hold the memory
        self.slots //= 2
        log.warning("out of memory: going on with batches of %d", self.slots)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return False


def in_batches(
    rows: Sequence[int], room: Room, stop: Callable[[], bool], work: Callable[[list[int]], None]
) -> None:
    """`work` on all rows, as many at once as there is room for, until `stop`."""
    left = list(rows)
    while left and not stop():
        batch = left[: room.slots]

        def attempt(batch: list[int] = batch) -> None:
            work(batch)

        if room.survives(attempt):
            left = left[len(batch) :]
