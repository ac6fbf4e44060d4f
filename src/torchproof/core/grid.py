"""Perturbations between images of equal grey levels: rounding within ball and box."""

from __future__ import annotations

import torch
from torch import Tensor

from torchproof.core.norms import bound
from torchproof.core.sets import Ball

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
    taken = ball.norm.whole_levels(size, ball.radius * levels, room.reshape(size.shape))
    return taken.reshape(delta.shape) * delta.sign() / levels
