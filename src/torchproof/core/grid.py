"""Perturbations between images of equal grey levels, near given ones: rounding within ball and box.

Lengths here are in grey levels: size (P, D) float, how far each coordinate was to go; radius (P,);
room (P, D), the whole levels that the box leaves it. The result, (P, D), is how many it goes.
"""

from __future__ import annotations

from functools import singledispatch

import torch
from torch import Tensor

from torchproof.core.norms import L0, L1, L2, Linf, Norm, bound
from torchproof.core.sets import Ball
from torchproof.core.values import expand

_NOISE = 1e-3  # levels: what is nearer to a whole one is float noise


def on_grid(ball: Ball, delta: Tensor, levels: int = 255) -> Tensor:
    """delta (P, ...) moved to whole grey levels of size 1 / levels, losing as little as possible.

    The centre of the ball has to be an image of such levels. Each coordinate goes to a level next
    to its own; the result stays in the box, and in the ball where delta is in it (else it is no
    longer than delta). What is on the grid stays as it is. Rows do not depend on each other.
    """
    size = (delta.abs() * levels).reshape(len(delta), -1)
    whole = size.round()
    size = torch.where((size - whole).abs() < _NOISE, whole, size)
    room = (bound(delta, ball.low, ball.high) * levels + _NOISE).floor().clamp_min(0)
    taken = whole_levels(ball.norm, size, ball.radius * levels, room.reshape(size.shape))
    return taken.reshape(delta.shape) * delta.sign() / levels


@singledispatch
def whole_levels(norm: Norm, size: Tensor, radius: Tensor, room: Tensor) -> Tensor:
    """Towards zero, which no norm forbids."""
    return torch.minimum(size.floor(), room)


@whole_levels.register
def _(norm: Linf, size: Tensor, radius: Tensor, room: Tensor) -> Tensor:
    """To the nearest level that the ball allows."""
    reach = torch.maximum(_widened(radius), size.amax(1))
    near = size.round()
    return torch.minimum(torch.where(near <= expand(reach, near), near, size.floor()), room)


@whole_levels.register
def _(norm: L0, size: Tensor, radius: Tensor, room: Tensor) -> Tensor:
    """To the nearest level: what was zero stays zero."""
    return torch.minimum(size.round(), room)


@whole_levels.register
def _(norm: L2, size: Tensor, radius: Tensor, room: Tensor) -> Tensor:
    return _filled(size, radius, room, 2)


@whole_levels.register
def _(norm: L1, size: Tensor, radius: Tensor, room: Tensor) -> Tensor:
    return _filled(size, radius, room, 1)


def _filled(size: Tensor, radius: Tensor, room: Tensor, power: int) -> Tensor:
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
    limit = torch.maximum(own, torch.minimum(_widened(radius).double() ** power, near))
    value = torch.where(open_, (2 * (size - cut) - 1) / cost, -torch.inf)
    order = value.argsort(dim=1, descending=True, stable=True)
    bill = torch.where(open_, cost, torch.inf).double().gather(1, order).cumsum(1)
    added = (bill <= (limit - spent)[:, None]).to(cut)
    return cut.scatter_add(1, order, added)


def _widened(radius: Tensor) -> Tensor:
    """The radius with room for float noise: 8/255 in float32 is eight levels of 1/255."""
    return radius * (1 + 8 * torch.finfo(radius.dtype).eps)
