"""Reading images between their pixels: smoothing, shifting, zooming and warping, batched.

Images are (B, C, H, W); lengths are in pixels. `unit` makes lengths that were published for 32
pixels fit any size.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

PUBLISHED_SIDE = 32  # pixels of CIFAR-10-C, for which the lengths were chosen


def unit(x: Tensor) -> float:
    """How many pixels stand for one of a 32-pixel image; never less than one."""
    return max(1.0, min(x.shape[-2:]) / PUBLISHED_SIDE)


def smoothed(x: Tensor, sigma: float) -> Tensor:
    """Convolved with a Gaussian of standard deviation `sigma`, cut at 4 sigma; edges continue."""
    radius = max(1, math.ceil(4 * sigma))
    at = torch.arange(-radius, radius + 1, dtype=x.dtype, device=x.device)
    weights = torch.exp(-0.5 * (at / sigma) ** 2)
    weights = (weights / weights.sum()).expand(x.shape[1], 1, -1)
    for column in (False, True):
        pad = (0, 0, radius, radius) if column else (radius, radius, 0, 0)
        kernel = weights[..., None] if column else weights[:, :, None]
        x = F.conv2d(F.pad(x, pad, mode="replicate"), kernel, groups=x.shape[1])
    return x


def positions(x: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column numbers of the pixels, (H, W) each."""
    height, width = x.shape[-2:]
    rows = torch.arange(height, dtype=x.dtype, device=x.device)
    columns = torch.arange(width, dtype=x.dtype, device=x.device)
    return rows[:, None].expand(height, width), columns[None].expand(height, width)


def read(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """x (B, C, H, W) at the places (rows, columns), each (B, H, W), between pixels linearly; beyond
    the edge the image is mirrored.
    """
    height, width = x.shape[-2:]
    at = torch.stack([columns * (2 / (width - 1)) - 1, rows * (2 / (height - 1)) - 1], -1)
    return F.grid_sample(x, at, mode="bilinear", padding_mode="reflection", align_corners=True)


def moved(x: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Every pixel reads `down` rows below and `right` columns beside itself; (B,), or (B, H, W)."""
    rows, columns = positions(x)
    down, right = (d.reshape(len(x), *((1, 1) if d.dim() < 3 else d.shape[1:]))
                   for d in (down, right))  # fmt: skip
    return read(x, rows + down, columns + right)


def zoomed(x: Tensor, factor: float) -> Tensor:
    """The middle of the image enlarged by `factor` >= 1."""
    rows, columns = positions(x)
    middle = [(side - 1) / 2 for side in x.shape[-2:]]
    near = [(at - m) / factor + m for at, m in zip((rows, columns), middle, strict=True)]
    return read(x, *(at.expand(len(x), -1, -1) for at in near))


def streaked(x: Tensor, length: float, sigma: float, angle: Tensor) -> Tensor:
    """Averaged along a line that runs from each pixel in the direction `angle` (B,), in radians.

    The weight falls with the distance like a Gaussian of `sigma`, up to `length`, as ImageMagick's
    motion blur does.
    """
    steps = max(1, round(length))
    weights = [math.exp(-0.5 * (i / sigma) ** 2) for i in range(steps + 1)]
    total = torch.zeros_like(x)
    for i, weight in enumerate(weights):
        total += weight * moved(x, -i * angle.sin(), -i * angle.cos())
    return total / sum(weights)
