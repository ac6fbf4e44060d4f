"""Functions that are not defined everywhere, and bounds that leave their domain."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from torchproof.core.errors import ModelError
from torchproof.verify.inputs import InputSet


class OutsideDomain(ModelError):
    """Bounds of what goes into a function leave its domain; tighter ones may not."""


def by_example(
    inside: InputSet, y: Tensor, ask: Callable[[InputSet, Tensor], tuple[tuple[Tensor, ...], int]]
) -> tuple[tuple[Tensor, ...], int]:
    """ask(inside, y): bounds (B, ...), what else it says of each, and what that cost. Where bounds
    of some examples leave the domain of a function, the others are asked about one by one: no bound
    depends on the company. Those have -inf; raises OutsideDomain where all of them do.
    """
    try:
        return ask(inside, y)
    except OutsideDomain:
        if len(y) == 1:
            raise
    alone = [(inside.take(torch.tensor([i])), y[i : i + 1]) for i in range(len(y))]
    found: list[tuple[tuple[Tensor, ...], int] | None] = []
    for example in alone:
        try:
            found.append(ask(*example))
        except OutsideDomain:
            found.append(None)
    known = [one for one in found if one is not None]
    if not known:
        return ask(*alone[0])  # which raises what is to be said
    nothing = tuple(
        torch.full_like(t, -torch.inf if i == 0 else 0) for i, t in enumerate(known[0][0])
    )
    rows = [nothing if one is None else one[0] for one in found]
    return tuple(torch.cat(parts) for parts in zip(*rows, strict=True)), sum(n for _, n in known)
