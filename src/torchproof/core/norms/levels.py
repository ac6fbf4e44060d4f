"""Whole grey levels where lengths add up over coordinates, as those of L1 and L2 do."""

from __future__ import annotations

import torch
from torch import Tensor

from torchproof.core.norms.norm import widened


def within_length(size: Tensor, radius: Tensor, room: Tensor, power: int) -> Tensor:
    """Everything cut towards zero, then levels added where they bring most (squared distance to
    delta saved, by what they cost of the sum of size^power) until the length is spent: that of the
    nearest levels where these are in the ball, else its radius, and never less than delta's own.

    In directions of many small coordinates the nearest levels would be none at all; keeping the
    length keeps the largest of them.
    """
    cut = torch.minimum(size.floor(), room)
    open_ = (size > cut) & (cut < room)
    cost = (cut + 1) ** power - cut**power
    spent, own, near = (
        (t.double() ** power).sum(1) for t in (cut, size, torch.minimum(size.round(), room))
    )
    limit = torch.maximum(own, torch.minimum(widened(radius).double() ** power, near))
    value = torch.where(open_, (2 * (size - cut) - 1) / cost, -torch.inf)
    order = value.argsort(dim=1, descending=True, stable=True)
    bill = torch.where(open_, cost, torch.inf).double().gather(1, order).cumsum(1)
    added = (bill <= (limit - spent)[:, None]).to(cut)
    return cut.scatter_add(1, order, added)
