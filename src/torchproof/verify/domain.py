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
    inside: InputSet, y: Tensor, ask: Callable[[InputSet, Tensor], tuple[Tensor, int]]
) -> tuple[Tensor, int]:
    """ask(inside, y): bounds (B, ...), and what they cost. Where those of some examples leave the
    domain of a function, all are asked about one by one, so that no bound depends on the company,
    and those have -inf; raises OutsideDomain where all of them do.
    """
    try:
        return ask(inside, y)
    except OutsideDomain:
        if len(y) == 1:
            raise
    found: dict[int, Tensor] = {}
    cost, lost = 0, None
    for i in range(len(y)):
        try:
            found[i], own = ask(inside.take(torch.tensor([i])), y[i : i + 1])
            cost += own
        except OutsideDomain as error:
            lost = error
    if lost is not None and not found:
        raise lost
    nothing = torch.full_like(next(iter(found.values())), -torch.inf)
    return torch.cat([found.get(i, nothing) for i in range(len(y))]), cost
