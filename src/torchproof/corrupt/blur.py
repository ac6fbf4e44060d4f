"""Blur: out of focus, frosted glass, motion and zoom (Hendrycks and Dietterich 2019).

Strengths are those of CIFAR-10-C, but for glass and for the two strongest of motion, which are
ours: theirs are not monotone here.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from torchproof.core import keys
from torchproof.corrupt.sampling import moved, smoothed, streaked, unit, zoomed

_DISK = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1))  # radius, softness of its edge
_GLASS = ((0.3, 0.4), (0.35, 0.6), (0.4, 0.85), (0.45, 1.1), (0.5, 1.4))  # smoothing, pixels away
_MOTION = ((6, 1.0), (6, 1.5), (6, 2.0), (8, 2.5), (10, 3.2))  # length, fall of the weight
_ZOOM = (1.05, 1.10, 1.15, 1.20, 1.25)  # the last of the zooms, which are 0.01 apart
_FINE = 8  # points per pixel and direction that measure how much of it a disk covers


def defocus_blur(x: Tensor, strength: int, key: Tensor) -> Tensor:
    """A lens out of focus: convolved with a disk."""
    radius, softness = (value * unit(x) for value in _DISK[strength - 1])
    kernel = _disk(radius, softness, x)
    reach = kernel.shape[-1] // 2
    padded = F.pad(x, (reach,) * 4, mode="replicate")
    return F.conv2d(padded, kernel.expand(x.shape[1], 1, -1, -1), groups=x.shape[1])


def _disk(radius: float, softness: float, like: Tensor) -> Tensor:
    """(1, 1, K, K) the share of each pixel that a disk covers, smoothed."""
    reach = math.ceil(radius + 4 * softness)
    fine = torch.arange((2 * reach + 1) * _FINE, dtype=like.dtype, device=like.device)
    fine = (fine + 0.5) / _FINE - (reach + 0.5)
    covered = (fine[:, None] ** 2 + fine[None] ** 2 <= radius**2).to(like.dtype)
    kernel = smoothed(F.avg_pool2d(covered[None, None], _FINE), softness)
    return kernel / kernel.sum()


def glass_blur(x: Tensor, strength: int, key: Tensor) -> Tensor:
    """Frosted glass: every pixel reads a random place near it, between two smoothings."""
    sigma, reach = (value * unit(x) for value in _GLASS[strength - 1])
    away = keys.normal(key, 0, (2, *x.shape[-2:]), dtype=x.dtype).clamp(-2, 2) * reach
    shaken = moved(smoothed(x, sigma), away[:, 0].round(), away[:, 1].round())
    return smoothed(shaken, sigma)


def motion_blur(x: Tensor, strength: int, key: Tensor) -> Tensor:
    """A camera that moves, in a direction of its own for every image."""
    length, sigma = (value * unit(x) for value in _MOTION[strength - 1])
    angle = (keys.uniform(key, 0, (), dtype=x.dtype) - 0.5) * (math.pi / 2)
    return streaked(x, length, sigma, angle)


def zoom_blur(x: Tensor, strength: int, key: Tensor) -> Tensor:
    """A camera that approaches: the mean of ever larger zooms."""
    zooms = round((_ZOOM[strength - 1] - 1) * 100)
    total = x.clone()
    for step in range(zooms + 1):
        total += zoomed(x, 1 + step / 100)
    return total / (zooms + 2)
