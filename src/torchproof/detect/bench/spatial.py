"""Rotations and shifts that a classifier gets wrong (Engstrom et al. 2019): black box, no pixel is
perturbed.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.core.errors import InputError
from torchproof.core.keys import permutation
from torchproof.core.objectives import margin


@dataclass(frozen=True)
class Spatial:
    """Tries rotations up to `degrees` and shifts up to `pixels` on a grid of `angles` x `shifts` x
    `shifts`, in an order drawn by the seed, and leaves an image as soon as it is misclassified, so
    that queries are few; at most `queries` for an image.

    An image that no pose gets wrong is left in the worst one seen. What comes in from outside is
    black. The same pose is never applied to all images, as one published library does.
    """

    pixels: float
    degrees: float
    angles: int = 13
    shifts: int = 5
    queries: int = 100

    def __post_init__(self) -> None:
        if self.pixels < 0 or self.degrees < 0 or not self.pixels + self.degrees > 0:
            given = f"pixels = {self.pixels!r}, degrees = {self.degrees!r}"
            raise InputError(given, "both >= 0, one above", "write Spatial(10, 60)")
        if min(self.angles, self.shifts, self.queries) < 1:
            given = f"angles, shifts, queries = {self.angles}, {self.shifts}, {self.queries}"
            raise InputError(given, "whole numbers >= 1", "see the defaults")

    def poses(self, seed: int) -> list[tuple[float, float, float]]:
        """(degrees, pixels to the right, pixels down), none of them all zero."""
        turns = _spaced(self.degrees, self.angles)
        moves = _spaced(self.pixels, self.shifts)
        every = [pose for pose in itertools.product(turns, moves, moves) if any(pose)]
        order = permutation(len(every), seed, "poses")[: self.queries]
        return [every[number] for number in order.tolist()]

    @torch.no_grad()
    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, seed: int = 0, batch_size: int = 128
    ) -> Tensor:
        """The turned and shifted images, (N, C, H, W), of images x with labels y (N,); the model is
        asked in the mode that it is in.
        """
        worst = x.clone()
        level = torch.full((len(x),), -torch.inf, device=x.device)
        right = torch.ones(len(x), dtype=torch.bool, device=x.device)
        for pose in self.poses(seed):
            if not right.any():
                break
            for rows in torch.split(right.nonzero()[:, 0], batch_size):
                tried = moved(x[rows], *pose)
                logits = model(tried).float()
                found, lost = margin(logits, y[rows]), logits.argmax(1) != y[rows]
                better = lost | (found > level[rows])
                worst[rows[better]], level[rows[better]] = tried[better], found[better]
                right[rows[lost]] = False
        return worst


def _spaced(most: float, count: int) -> list[float]:
    """`count` numbers from -most to most; 0 alone where there is nothing to vary."""
    if count == 1 or most == 0:
        return [0.0]
    return torch.linspace(-most, most, count, dtype=torch.float64).tolist()


def moved(x: Tensor, degrees: float, right: float, down: float) -> Tensor:
    """Images x (N, C, H, W) turned about their centre (counter-clockwise) and then shifted by so
    many pixels, bilinear, black outside.
    """
    angle = math.radians(degrees)
    cos, sin = math.cos(angle), math.sin(angle)
    height, width = x.shape[2:]
    # the place that a pixel comes from: shifted back, then turned back; y points down
    back = torch.tensor([[cos, -sin], [sin, cos]], dtype=torch.float64)
    offset = -back @ torch.tensor([right, down], dtype=torch.float64)
    half = torch.tensor([width / 2, height / 2], dtype=torch.float64)
    matrix = torch.cat([back * half[None] / half[:, None], (offset / half)[:, None]], 1).to(x)
    grid = F.affine_grid(matrix.expand(len(x), 2, 3), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False).clamp(0, 1)
