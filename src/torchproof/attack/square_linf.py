"""Square's proposals in the Linf ball: stripes to start from, then squares of one colour
(Andriushchenko et al. 2020, algorithm 2).
"""

from __future__ import annotations

import torch
from torch import Tensor

from torchproof.core import keys
from torchproof.core.sets import Ball
from torchproof.core.values import expand


class Stripes:
    """Every coordinate at an extreme of ball and box; a proposal moves one square of the best
    point, each of its channels to one side.
    """

    def start(self, ball: Ball, key: Tensor) -> Tensor:
        """Vertical stripes of random signs, per channel."""
        _, channels, _, width = ball.low.shape
        sign = keys.signs(key, 0, (channels, 1, width), 1, ball.low.dtype)
        return torch.where(sign > 0, ball.ceiling, ball.floor)

    def propose(self, ball: Ball, key: Tensor, t: Tensor, best: Tensor, area: Tensor) -> Tensor:
        """The best point with one new square per image."""
        _, channels, height, width = best.shape
        side = area.sqrt().round().clamp(1, min(height, width))
        u = keys.uniform(key, t, (2 + channels,), 2, torch.float32)
        top = (u[:, 0] * (height - side + 1)).floor()[:, None]
        left = (u[:, 1] * (width - side + 1)).floor()[:, None]
        i = torch.arange(height, device=t.device) - top
        j = torch.arange(width, device=t.device) - left
        rows, columns = (i >= 0) & (i < side[:, None]), (j >= 0) & (j < side[:, None])
        window = (rows[:, :, None] & columns[:, None, :])[:, None]
        up = expand(u[:, 2:].reshape(-1), best.flatten(0, 1)).reshape(-1, channels, 1, 1) > 0.5
        return torch.where(window, torch.where(up, ball.ceiling, ball.floor), best)
