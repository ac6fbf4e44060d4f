"""The sum of absolute coordinates."""

from __future__ import annotations

import torch
from torch import Tensor

from torchproof.core import keys
from torchproof.core.norms.levels import within_length
from torchproof.core.norms.norm import Norm, bound, flat
from torchproof.core.values import expand


class L1(Norm):
    """Sum of absolute coordinates."""

    def length(self, d: Tensor) -> Tensor:
        return flat(d).abs().sum(1)

    def steepest(self, g: Tensor) -> Tensor:
        rows = flat(g)
        top = rows.abs().argmax(1, keepdim=True)
        out = torch.zeros_like(rows).scatter_(1, top, rows.gather(1, top).sign())
        return out.reshape(g.shape)

    def project(self, d: Tensor, radius: Tensor, low: Tensor, high: Tensor) -> Tensor:
        inside = torch.clamp(d, low, high)
        rows = (self.length(inside) > radius).nonzero()[:, 0]
        if len(rows):
            d_ = flat(d)[rows]
            room = bound(d_, flat(low)[rows], flat(high)[rows])
            exact = d_.sign() * _soft_clip(d_, radius[rows], room)
            inside[rows] = exact.reshape(len(rows), *d.shape[1:])
        return inside

    def maximiser(self, a: Tensor, radius: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """Spends the radius on the largest |a| first, each up to its box (fractional knapsack)."""
        rows = flat(a)
        room = bound(rows, flat(low), flat(high)).clamp_max(radius[:, None])
        order = rows.abs().argsort(dim=1, descending=True, stable=True)
        ordered = room.gather(1, order)
        before = ordered.cumsum(1) - ordered
        spent = torch.minimum(ordered, (radius[:, None] - before).clamp_min(0))
        size = torch.zeros_like(rows).scatter_(1, order, spent)
        return (rows.sign() * size).reshape(a.shape)

    def move(self, d: Tensor, g: Tensor, length: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """The steepest step that the box still allows: one coordinate alone would soon be
        saturated.
        """
        return d + self.maximiser(g, length, (low - d).clamp_max(0), (high - d).clamp_min(0))

    def random(self, key: Tensor, like: Tensor, stream: int = 0) -> Tensor:
        """Uniform on the sphere: exponential magnitudes divided by their sum, fair signs."""
        shape = tuple(like.shape[1:])
        e = keys.uniform(key, 0, shape, stream, like.dtype).log_().neg_()
        e = e / expand(self.length(e).clamp_min(1e-12), e)
        return e * keys.signs(key, 2, shape, stream, like.dtype)

    def whole_levels(self, size: Tensor, radius: Tensor, room: Tensor) -> Tensor:
        return within_length(size, radius, room, 1)


def _soft_clip(d: Tensor, radius: Tensor, room: Tensor) -> Tensor:
    """Magnitudes clip(|d| - shrink, 0, room) with the smallest shrink >= 0 whose sum is <= radius;
    (P, D).

    The sum falls piecewise linearly in the shrink, with kinks at |d| - room and |d|: sort the
    kinks, add up the slopes, and interpolate inside the one segment that holds the root.
    """
    size = d.abs().double()
    room = torch.minimum(room.double(), size)  # a wider box never binds, and may be infinite
    kinks, order = torch.cat([size - room, size], 1).sort(1)
    change = torch.cat([-torch.ones_like(size), torch.ones_like(size)], 1).gather(1, order)
    slope = change.cumsum(1)
    steps = torch.diff(kinks, dim=1)
    total = torch.cat([torch.zeros_like(kinks[:, :1]), (slope[:, :-1] * steps).cumsum(1)], 1)
    total = total + room.sum(1, keepdim=True)
    segment = ((total > radius[:, None]).sum(1, keepdim=True) - 1).clamp_min(0)
    at, height, rate = (t.gather(1, segment) for t in (kinks, total, slope))
    shrink = at + (height - radius[:, None]) / (-rate).clamp_min(1)
    shrink = torch.where(
        total[:, :1] <= radius[:, None], torch.zeros_like(shrink), shrink
    ).clamp_min(0)
    return torch.minimum((size - shrink).clamp_min(0), room).to(d.dtype)
