"""A limit on the memory that bounds may take.

`with memory(bytes):` the largest tensors of a walk, parts that wait in a branch and bound and boxes
that wait in a search over inputs stay below what the limit leaves them. What does not fit is walked
in smaller pieces; what waits beyond the limit ends a search undecided, and a zonotope whose symbols
are beyond it is refused: it is of one piece.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from torchproof.core.errors import InputError, ModelError
from torchproof.verify.clock import look

ENTRIES = 2**24
"""Of the largest tensor of rows, without a limit."""

WAITING = 2**31
"""Bytes of parts or boxes that wait, without a limit."""

SHARE = 16
"""Tensors as large as the largest that a walk holds at once, at most; half of a limit is theirs."""

_LIMIT: ContextVar[float | None] = ContextVar("limit on memory", default=None)


@contextmanager
def memory(most: float | None) -> Iterator[None]:
    """Lets the block hold that many bytes, half of them in what waits; None for the defaults. For
    the current thread alone. Raises InputError for fewer than 2^20.
    """
    if most is not None and not most >= 2**20:
        given = f"a limit on memory of {most:.4g} bytes"
        raise InputError(given, "at least 2^20", "give some GiB: --memory 2")
    token = _LIMIT.set(most)
    try:
        yield
    finally:
        _LIMIT.reset(token)


def entries() -> int:
    """Numbers that the largest tensor of rows may have."""
    most = _LIMIT.get()
    return ENTRIES if most is None else max(1, min(ENTRIES, int(most / 2 / SHARE / 8)))


def waiting() -> int:
    """Bytes that what waits may hold."""
    most = _LIMIT.get()
    return WAITING if most is None else int(most / 2)


def hold(numbers: int, what: str) -> None:
    """Raises ModelError where so many numbers of float64 are more than half of a limit."""
    most = _LIMIT.get()
    if most is not None and 8 * numbers > most / 2:
        given = f"{what} of {8 * numbers / 2**30:.2g} GiB in a limit of {most / 2**30:.2g}"
        remedy = "raise the limit, or use a method that walks back, such as crown"
        raise ModelError(given, "what fits into half of the limit", remedy)


def in_pieces(call: Callable[..., Tensor], parts: Sequence[Tensor], largest: int) -> Tensor:
    """`call` on the rows of the parts, which have at most `largest` numbers each, as many at a time
    as memory allows; the clock is looked at between them.
    """
    count, found = max(1, entries() // max(largest, 1)), []
    for piece in zip(*(torch.split(part, count) for part in parts), strict=True):
        look()
        found.append(call(*piece))
    return torch.cat(found)
