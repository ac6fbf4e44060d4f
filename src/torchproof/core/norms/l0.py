"""The number of coordinates that change."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from torchproof.core import keys
from torchproof.core.norms.l1 import L1
from torchproof.core.norms.norm import Norm, flat


class L0(Norm):
    """Number of coordinates that change (a colour pixel counts once per channel)."""

    least: ClassVar[float] = 1.0

    def length(self, d: Tensor) -> Tensor:
        return (flat(d) != 0).sum(1).to(d.dtype)

    def steepest(self, g: Tensor) -> Tensor:
        """One-hot sign; unbounded without |u| <= 1, which is therefore required here."""
        return L1().steepest(g)

    def _keep(self, gain: Tensor, radius: Tensor) -> Tensor:
        rank = gain.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        return (rank < radius[:, None].floor()) & (gain > 0)

    def project(self, d: Tensor, radius: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """Keeps the coordinates that save most squared distance, each clamped to the box."""
        rows, inside = flat(d), flat(torch.clamp(d, low, high))
        gain = rows.square() - (rows - inside).square()
        return torch.where(self._keep(gain, radius), inside, 0.0).reshape(d.shape)

    def maximiser(self, a: Tensor, radius: Tensor, low: Tensor, high: Tensor) -> Tensor:
        rows = flat(a)
        corner = torch.where(rows > 0, flat(high), torch.where(rows < 0, flat(low), 0.0))
        return torch.where(self._keep(rows * corner, radius), corner, 0.0).reshape(a.shape)

    def reach(self, radius: Tensor) -> Tensor:
        return torch.full_like(radius, torch.inf)

    def move(self, d: Tensor, g: Tensor, length: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """Moves the `length` (at least one) most rewarding coordinates to their extremes."""
        room = (low - d).clamp_max(0), (high - d).clamp_min(0)
        return d + self.maximiser(g, length.clamp_min(1), *room)

    def random(self, key: Tensor, like: Tensor, stream: int = 0) -> Tensor:
        """One random coordinate, at -1 or 1."""
        return self.sample(key, like.new_ones(len(like)), like, stream)

    def sample(self, key: Tensor, radius: Tensor, like: Tensor, stream: int = 0) -> Tensor:
        """`radius` random coordinates, at -1 or 1."""
        u = flat(keys.uniform(key, 0, tuple(like.shape[1:]), stream, like.dtype).mul_(2).sub_(1))
        return torch.where(self._keep(u.abs(), radius), u.sign(), 0.0).reshape(like.shape)

    def whole_levels(self, size: Tensor, radius: Tensor, room: Tensor) -> Tensor:
        """To the nearest level: what was zero stays zero."""
        return torch.minimum(size.round(), room)
