"""Textures that weather is made of: clouds and ice, drawn from keys, (B, 1, H, W) in [0, 1]."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from torchproof.core import keys
from torchproof.corrupt.sampling import positions, smoothed, unit

_FRONDS = 12  # ferns of ice per image
_BRANCHES = math.radians(60)  # the angle of ice crystals


def clouds(key: Tensor, like: Tensor, decay: float) -> Tensor:
    """Fractal noise: octaves of random grids, each twice as fine and `decay` times as weak.

    The picture that the diamond-square algorithm gives, without its creases.
    """
    height, width = like.shape[-2:]
    total = torch.zeros(len(key), 1, height, width, dtype=like.dtype, device=like.device)
    cells, octave = 2, 0
    while cells < 2 * max(height, width):
        grid = keys.uniform(key, octave, (1, cells + 1, cells + 1), 1, like.dtype)
        layer = F.interpolate(grid, (height, width), mode="bicubic", align_corners=True)
        total += layer / decay**octave
        cells, octave = 2 * cells, octave + 1
    return stretched(total)


def stretched(t: Tensor) -> Tensor:
    """Each image spread over [0, 1]."""
    low, high = t.amin((1, 2, 3), keepdim=True), t.amax((1, 2, 3), keepdim=True)
    return (t - low) / (high - low).clamp_min(torch.finfo(t.dtype).tiny)


def ice(key: Tensor, like: Tensor) -> Tensor:
    """Ferns of ice on a window: bent stems with side branches, in a film that is thickest about
    them.
    """
    scale = unit(like)
    ferns = torch.zeros(len(key), 1, *like.shape[-2:], dtype=like.dtype, device=like.device)
    bend = (clouds(keys.mix(key, "bend"), like, 2.5) - 0.5)[:, 0] * (5 * scale)
    for number in range(_FRONDS):
        ferns = torch.maximum(ferns, _fern(keys.mix(key, number), like, bend))
    grain = 0.4 + 0.6 * clouds(keys.mix(key, "grain"), like, 1.1)
    film = clouds(keys.mix(key, "film"), like, 1.6)
    # what is seen is an average over a pixel: thin lines are softened a little
    crystals = smoothed(ferns * grain, 0.35 * scale)
    return (0.4 * film + 0.35 * smoothed(ferns, 1.5 * scale) + 0.75 * crystals).clamp(0, 1)


def _fern(key: Tensor, like: Tensor, bend: Tensor) -> Tensor:
    """(B, 1, H, W): one stem, moved by `bend` (B, H, W) pixels, and its branches, which get shorter
    and fainter towards the tip.
    """
    scale, side = unit(like), float(min(like.shape[-2:]))
    u = keys.uniform(key, 0, (6,), dtype=like.dtype)[:, :, None, None]
    rows, columns = positions(like)
    angle = u[:, 0] * (2 * math.pi)
    # a stem begins anywhere and points to the middle more often than away from it
    down = rows - side * (u[:, 1] - 0.25 * angle.sin()) + bend
    right = columns - side * (u[:, 2] - 0.25 * angle.cos()) - bend
    along = right * angle.cos() + down * angle.sin()
    across = (down * angle.cos() - right * angle.sin()).abs()
    length, gap = side * (0.3 + 0.5 * u[:, 3]), scale * (2.8 + 1.6 * u[:, 4])
    reach = (0.2 + 0.2 * u[:, 5]) * (length - along).clamp_min(0) + 1e-6
    phase = (along - across / math.tan(_BRANCHES)) / gap
    off = (phase - phase.round()).abs() * gap * math.sin(_BRANCHES)
    faded = (1 - across / reach).clamp_min(0).sqrt()
    branches = torch.exp(-((off / (0.5 * scale)) ** 2)) * faded
    stem = torch.exp(-((across / (0.6 * scale)) ** 2))
    tip = ((length - along) / (0.3 * length)).clamp(0, 1) * (along / scale + 1).clamp(0, 1)
    return (torch.maximum(stem, 0.9 * branches) * tip)[:, None]
