"""DUNET, the denoising U-net of Liao et al. 2018, and their DAE, the same without lateral skips."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.core.errors import InputError

WIDTHS, COUNTS = (64, 128, 256, 256, 256), (2, 3, 3, 3, 3)
"""Of the authors: channels of the five resolutions, and convolutions at each on the way down."""
NAMES = {"dunet": True, "dae": False}
"""Denoisers by name: with lateral skips, or without."""


class DUNET(nn.Module):
    """Images x (B, C, H, W) to x + what a U-net answers, same shape (Liao et al. 2018; counts and
    widths from the authors' code).

    Down: `counts[i]` convolutions (3 x 3, batch norm, ReLU) of `widths[i]` channels at each
    resolution, the first of which halves it (but for i = 0). Up, from coarse to fine: bilinear to
    the exact size of the maps that were left there, these beside them (`lateral`; without, the
    authors' DAE), and as many convolutions, of as many channels, as on the way down. Last a 1 x 1
    convolution without bias, added to x. Sizes need be no powers of two.

    zero: that convolution starts at 0, so that the fresh network answers x itself, exactly. The
    authors start from torch's random weights (zero=False). Nothing is clamped to [0, 1].

    Raises InputError for widths and counts that do not go together.
    """

    def __init__(
        self,
        channels: int,
        widths: Sequence[int] = WIDTHS,
        counts: Sequence[int] | None = None,
        lateral: bool = True,
        zero: bool = True,
    ) -> None:
        super().__init__()
        counts = _counts(widths) if counts is None else counts
        if not widths or len(widths) != len(counts) or min(*widths, *counts) < 1:
            remedy = "give as many counts as widths, such as widths=(16, 32, 64), counts=(2, 3, 3)"
            given = f"widths={tuple(widths)}, counts={tuple(counts)}"
            raise InputError(given, "positive numbers, one of each per resolution", remedy)
        self.lateral = lateral
        into = (channels, *widths[:-1])
        strides = [1] + [2] * (len(widths) - 1)
        shapes = zip(into, widths, counts, strides, strict=True)
        self.down = nn.ModuleList(_convolutions(*shape) for shape in shapes)
        self.up = nn.ModuleList(
            _convolutions(below + (own if lateral else 0), own, count, 1)
            for (own, below), count in reversed(list(zip(pairwise(widths), counts, strict=False)))
        )
        self.last = nn.Conv2d(widths[0], channels, 1, bias=False)
        if zero:
            nn.init.zeros_(self.last.weight)

    def forward(self, x: Tensor) -> Tensor:
        left: list[Tensor] = []
        maps = x
        for block in self.down:
            maps = block(maps)
            left.append(maps)
        left.pop()
        for block in self.up:
            beside = left.pop()
            maps = F.interpolate(maps, beside.shape[2:], mode="bilinear", align_corners=False)
            maps = block(torch.cat([maps, beside], 1) if self.lateral else maps)
        answer: Tensor = x + self.last(maps)
        return answer


def _counts(widths: Sequence[int]) -> tuple[int, ...]:
    """The authors' counts, 2 and then 3, for any number of resolutions."""
    return (COUNTS[0], *[COUNTS[1]] * (len(widths) - 1))


def _convolutions(before: int, after: int, count: int, stride: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for number in range(count):
        ins, step = (after, 1) if number else (before, stride)
        layers += [nn.Conv2d(ins, after, 3, stride=step, padding=1, bias=False),
                   nn.BatchNorm2d(after), nn.ReLU()]  # fmt: skip
    return nn.Sequential(*layers)
