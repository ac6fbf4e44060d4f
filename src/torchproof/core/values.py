"""Values: a tensor or a dict of tensors, every leaf with one row per problem, shape (P, ...).

`tree`, `take` and `put` also walk dataclasses of such leaves, so a search's state, a set
of cases and a perturbation of all the weights are handled by the same few functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

Value = Tensor | dict[str, Tensor]
T = TypeVar("T")


def tree(f: Callable[..., Any], first: T, *rest: Any) -> T:
    """`f` applied to corresponding leaves; leaves that are not tensors (None, numbers) stay as in
    `first`.
    """
    if isinstance(first, Tensor):
        return f(first, *rest)  # type: ignore[no-any-return, unused-ignore]
    if isinstance(first, dict):
        return {k: tree(f, v, *(r[k] for r in rest)) for k, v in first.items()}  # type: ignore[return-value]
    if is_dataclass(first) and not isinstance(first, type):
        names = [a.name for a in fields(first)]
        mapped = {n: tree(f, getattr(first, n), *(getattr(r, n) for r in rest)) for n in names}
        return replace(first, **mapped)
    return first


def leaves(value: Any) -> Iterator[Tensor]:
    """Every tensor in `value`, in a fixed order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for v in value.values():
            yield from leaves(v)
    elif is_dataclass(value):
        for a in fields(value):
            yield from leaves(getattr(value, a.name))


def take(value: T, rows: Tensor) -> T:
    """The given rows of every leaf; `rows` holds indices or is a mask."""
    return tree(lambda t: t[rows], value)


def put(value: T, rows: Tensor, new: T) -> None:
    """Writes `new` into the given rows of every leaf, in place."""

    def write(old: Tensor, source: Tensor) -> Tensor:
        old[rows] = source.to(old.device, old.dtype)
        return old

    tree(write, value, new)


def overwrite(value: T, rows: Tensor, new: T) -> None:
    """Copies the given rows of every leaf of `new` over the same rows of `value`, in place."""

    def write(old: Tensor, source: Tensor) -> Tensor:
        if len(rows) == len(old):  # a plain copy takes a third of the time
            return old.copy_(source)
        return old.index_copy_(0, rows, source.index_select(0, rows))

    tree(write, value, new)


def expand(row: Tensor, like: Tensor) -> Tensor:
    """A (P,) tensor viewed as (P, 1, ...) so that it multiplies `like` (P, ...)."""
    return row.reshape(-1, *(1,) * (like.dim() - 1))


def where(mask: Tensor, yes: T, no: T) -> T:
    """Row by row: `yes` where the (P,) mask holds, else `no`."""
    return tree(lambda a, b: torch.where(expand(mask, a), a, b), yes, no)
