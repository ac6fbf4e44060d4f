"""Square's proposals in the L2 and L1 balls: bumps that take the place, and the length, of others
(Andriushchenko et al. 2020, algorithm 3, and AutoAttack's version for L1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from torchproof.core import keys
from torchproof.core.sets import Ball
from torchproof.core.values import expand

_TINY = 1e-12  # keeps windows without any perturbation from dividing 0 by 0


class Windows(NamedTuple):
    """One square window per image: side (P,), and its pixels, listed row by row as in the widest,
    S.

    rows, columns: (P, S * S) int64 within the window; where a narrower window has no such pixel its
    last one is repeated, and `real` (P, 1, S * S) is 0.
    """

    widest: int
    side: Tensor
    rows: Tensor
    columns: Tensor
    real: Tensor

    @classmethod
    def of(cls, side: Tensor, dtype: torch.dtype) -> Windows:
        """Windows with the given sides (P,), int64."""
        widest = int(side.max())
        number = torch.arange(widest * widest, device=side.device)
        i, j, last = number // widest, number % widest, side[:, None] - 1
        real = (i <= last) & (j <= last)
        return cls(
            widest, side, torch.minimum(i, last), torch.minimum(j, last), real[:, None].to(dtype)
        )

    def at(self, u: Tensor, v: Tensor, like: Tensor) -> Tensor:
        """(P, C, S * S) places in the flattened images of `like` (P, C, H, W), the windows' corners
        drawn by u and v (P,) in (0, 1).
        """
        _, channels, height, width = like.shape
        top = (u * (height - self.side + 1)).long()[:, None]
        left = (v * (width - self.side + 1)).long()[:, None]
        place = (top + self.rows) * width + left + self.columns
        return place[:, None].expand(-1, channels, -1)


@dataclass(frozen=True)
class Bumps:
    """Pairs of hills, one up and one down, whose height falls with the distance from their tops.

    A proposal empties one window of the best point and gives its length, and what the ball has
    left, to another window, as the normalised sum of what was there and a new bump. Channels have
    signs and shares of their own.

    power: p of the ball's norm; decay: heights are sums of 1 / k^decay; surplus: how often its
    length a change is given before it is brought into the ball. In L1 three times too much makes
    the proposals sparse, for the projection keeps their peaks. Deviation: AutoAttack's factor is
    the number of channels, and grey images, with a factor of one, withstand it much longer.
    """

    power: int
    decay: int
    surplus: float

    def start(self, ball: Ball, key: Tensor) -> Tensor:
        """A grid of five bumps by five, of random signs and directions, at the ball's radius."""
        count, channels, height, width = ball.low.shape
        side = max(min(height, width) // 5, 1)
        down, across = height // side, width // side
        one = Windows.of(torch.tensor([side], device=key.device), ball.low.dtype)
        bump = self.bump(one, torch.zeros_like(one.side).bool()).reshape(side, 1, side)
        u = keys.uniform(key, 0, (1 + channels, down, 1, across, 1), 1, torch.float32) > 0.5
        turned = torch.where(u[:, :1], bump.transpose(0, 2), bump)
        sign = u[:, 1:].to(bump.dtype) * 2 - 1
        grid = (turned * sign).reshape(count, channels, down * side, across * side)
        delta = torch.zeros_like(ball.low)
        top, left = (height - down * side) // 2, (width - across * side) // 2
        delta[:, :, top : top + down * side, left : left + across * side] = grid
        length = self.surplus * ball.radius / ball.length(delta)
        return ball.bring(delta.mul_(expand(length, delta)))

    def propose(self, ball: Ball, key: Tensor, t: Tensor, best: Tensor, area: Tensor) -> Tensor:
        """The best point with one window filled and one emptied per image."""
        _, channels, height, width = best.shape
        side = area.sqrt().round().clamp_min(3).long()
        side = (side + 1 - side % 2).clamp_max(min(height, width))  # odd, so that a bump has a top
        u = keys.uniform(key, t, (5 + channels,), 2, torch.float32)
        windows = Windows.of(side, best.dtype)
        filled, emptied = windows.at(u[:, 0], u[:, 1], best), windows.at(u[:, 2], u[:, 3], best)
        flat = best.flatten(2).clone()
        old = flat.gather(2, filled)
        own = self._sum(old * windows.real)
        flat.scatter_(2, filled, 0.0)
        taken = own + self._sum(flat.gather(2, emptied) * windows.real)
        flat.scatter_(2, emptied, 0.0)
        left = (ball.radius**self.power - ball.length(best) ** self.power) / channels
        left = expand(left, taken)
        sign = (u[:, 5:, None] - 0.5).sign()
        new = self.bump(windows, u[:, 4] > 0.5)[:, None] * sign + old / (self._root(own) + _TINY)
        length = self.surplus * self._root((taken + left).clamp_min(0))
        new = new * (length / (self._root(self._sum(new * windows.real)) + _TINY))
        return ball.bring(flat.scatter_(2, filled, new).reshape(best.shape))

    def bump(self, windows: Windows, turned: Tensor) -> Tensor:
        """(P, S * S) hills of unit length: positive above, negative below; side by side where
        `turned` (P,).

        Each half is normalised by itself. Its height, m steps from its top in the larger
        coordinate, is the sum of 1 / k^decay for m < k <= side // 2 + 1.
        """
        flip = turned[:, None]
        r = torch.where(flip, windows.columns, windows.rows)
        q = torch.where(flip, windows.rows, windows.columns)
        side = windows.side[:, None]
        half = side // 2
        above = r < half
        top = torch.where(above, half // 2, half + (side - half) // 2)
        k = torch.arange(windows.widest // 2 + 2, device=side.device).double()
        heights = torch.where(k > 0, k**-self.decay, 0.0).cumsum(0)
        steps = torch.maximum((r - top).abs(), (q - half).abs())
        value = (heights[half + 1] - heights[steps]).to(windows.real.dtype)
        real = windows.real[:, 0]
        up, down = (self._root(self._sum(value * real * part)) for part in (above, ~above))
        signed = value / torch.where(above, up, -down)
        return signed / self._root(self._sum(signed * real))

    def _sum(self, d: Tensor) -> Tensor:
        """Sums of |d|^power over the last dimension, which stays."""
        return (d.abs() ** self.power).sum(-1, keepdim=True)

    def _root(self, total: Tensor) -> Tensor:
        return total ** (1 / self.power)
