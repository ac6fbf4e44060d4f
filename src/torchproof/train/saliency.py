"""Perturbation saliency: which part of an image does an answer hang on (Greydanus et al. 2018)?"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.attack.untouched import untouched
from torchproof.train.method import answers


def saliency(
    model: nn.Module, x: Tensor, stride: int = 4, blur: int = 5, slots: int = 1024
) -> Tensor:
    """(B, H, W) in [0, 1]: how far the probabilities move, 1/2 |p(x) - p(x')|^2, when the image is
    blurred around a pixel, divided by the largest such change of the image.

    x: (B, C, H, W). The image is blended into a blurred one by a Gaussian bump, of standard
    deviation stride / 2, at each place of a grid of that stride, and values between are
    interpolated; blur: side of the blurring kernel, odd, whose standard deviation is blur / 4 (both
    deviations are our choice). The model is asked in eval mode, (H / stride)(W / stride) times per
    image, and is left as it was.
    """
    bumps = _bumps(x, stride)  # (G, 1, H, W)
    smooth = _blurred(x, blur)
    with untouched(model, 0, x.device), torch.no_grad():
        own = answers(model, x).softmax(1)
        moved = []
        for bump in torch.split(bumps, max(1, slots // len(x))):
            mixed = x[None] * (1 - bump[:, None]) + smooth[None] * bump[:, None]
            p = answers(model, mixed.flatten(0, 1)).softmax(1).reshape(*mixed.shape[:2], -1)
            moved.append((p - own).square().sum(2) / 2)
    rows, columns = _centres(x.shape[2], stride), _centres(x.shape[3], stride)
    grid = torch.cat(moved).T.reshape(len(x), 1, len(rows), len(columns))
    size = (x.shape[2], x.shape[3])
    full = F.interpolate(grid, size=size, mode="bilinear", align_corners=False)[:, 0]
    return full / full.flatten(1).amax(1).clamp_min(torch.finfo(x.dtype).tiny)[:, None, None]


def _centres(length: int, stride: int) -> Tensor:
    return torch.arange(stride / 2 - 0.5, length, stride)


def _bumps(x: Tensor, stride: int) -> Tensor:
    """(G, 1, H, W) Gaussian bumps of height 1, row by row."""
    height, width = x.shape[2:]

    def profile(length: int) -> Tensor:
        away = torch.arange(length)[None] - _centres(length, stride)[:, None]
        return torch.exp(-(away**2) / (2 * stride**2 / 4)).to(x)

    rows, columns = profile(height), profile(width)
    return (rows[:, None, :, None] * columns[None, :, None, :]).flatten(0, 1)[:, None]


def _blurred(x: Tensor, side: int) -> Tensor:
    """x under a Gaussian kernel of side `side`, edges repeated."""
    away = torch.arange(side) - side // 2
    line = torch.exp(-(away**2) / (2 * (side / 4) ** 2)).to(x)
    kernel = (line[:, None] * line[None]) / line.sum() ** 2
    channels = x.shape[1]
    padded = F.pad(x, [side // 2] * 4, mode="replicate")
    return F.conv2d(padded, kernel.expand(channels, 1, side, side), groups=channels)
