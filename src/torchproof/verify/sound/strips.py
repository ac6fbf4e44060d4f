"""Strips around nonlinear operations that hold exactly: s(z) - <k, z> stays within an interval.

Slopes may be any numbers, so they are taken from where rounding is not paid for; the interval is
then worked out for these slopes, and moved outward by more than its own rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torchproof.verify import strips
from torchproof.verify.interval import Interval
from torchproof.verify.relax import Curve, Hinge, Lines, Product, Relaxation
from torchproof.verify.sound.lines import corners, exact_lines, exact_range
from torchproof.verify.sound.rounding import TINY, charge


class Strip(NamedTuple):
    """low <= s(z) - <slopes, z> <= high; slopes like the inputs, the rest like the answer."""

    slopes: tuple[Tensor, ...]
    low: Tensor
    high: Tensor

    def centred(self) -> tuple[Tensor, Tensor]:
        """A middle and a radius >= 0 that hold the strip; both are exact where `low` is 0."""
        middle = self.low + (self.high - self.low) / 2
        noise = charge(8) * (self.low.abs() + self.high.abs())
        noise = torch.where(self.low == 0, 0.0, noise)
        return middle, ((self.high - self.low) / 2).clamp_min(0) + noise


def exact_strip(known: Relaxation, inputs: Sequence[Interval]) -> Strip:
    """With the slopes of `strips.strip`."""
    if isinstance(known, Hinge):
        lines = exact_lines(replace(known, parallel=True), inputs)
        return Strip(lines.high, lines.low_at, lines.high_at)
    slopes = strips.strip(known, inputs).slopes
    if isinstance(known, Curve):
        at = corners(known, inputs[0])
        return _extremes(slopes, known.function(at), [slopes[0] * at])
    if isinstance(known, Product):
        x, y = ((z.lower, z.upper) for z in inputs)
        pairs = [(a, b) for a in x for b in y]
        moved = [torch.stack([k * pair[i] for pair in pairs]) for i, k in enumerate(slopes)]
        return _extremes(slopes, torch.stack([a * b for a, b in pairs]), moved)
    return _between(slopes, exact_lines(known, inputs), inputs[0], exact_range(known, inputs))


def _extremes(slopes: tuple[Tensor, ...], values: Tensor, moved: list[Tensor]) -> Strip:
    """Of values less what the slopes make, (n, ...) at the corners, where the extremes are."""
    left, total = values, values.abs()
    for part in moved:
        left, total = left - part, total + part.abs()
    noise = charge(6) * total + TINY
    return Strip(slopes, (left - noise).amin(0), (left + noise).amax(0))


def _between(slopes: tuple[Tensor, ...], lines: Lines, z: Interval, answer: Interval) -> Strip:
    """By the lines and by the interval of the answer, for a maximum over the last axis."""
    (k,), n = slopes, z.lower.shape[-1]
    size = torch.maximum(z.lower.abs(), z.upper.abs())
    steepest = torch.maximum(lines.low[0].abs(), lines.high[0].abs()) + 2 * k.abs()

    def least(a: Tensor) -> Tensor:
        value = (a.clamp_min(0) * z.lower + a.clamp_max(0) * z.upper).sum(-1)
        return value - charge(2 * n + 8) * (2 * steepest * size).sum(-1)

    low = torch.maximum(lines.low_at + least(lines.low[0] - k), answer.lower + least(-k))
    high = torch.minimum(lines.high_at - least(k - lines.high[0]), answer.upper - least(k))
    total = lines.low_at.abs() + lines.high_at.abs() + (k.abs() * size).sum(-1) + size.amax(-1)
    exact = (lines.low[0] == k).all(-1) & (lines.high[0] == k).all(-1) & (lines.high_at == 0)
    noise = torch.where(exact, 0.0, charge(8) * total + TINY)
    zero = torch.zeros_like(low)
    return Strip(slopes, torch.where(exact, zero, low - noise),
                 torch.where(exact, zero, high + noise))  # fmt: skip


def shared(known: Relaxation, inputs: Sequence[Interval], alone: Tensor) -> Strip:
    """Of hybrid zonotopes: for hinges that may bend, the mixture of a box and of slope 1 by the
    share of the range that is negative (`hybrid`, "smooth"); the answer's interval for entries that
    are `alone`, without a noise that others have too.
    """
    found = exact_strip(known, inputs)
    if isinstance(known, Hinge):
        found = _smooth(known.slope, inputs[0], found)
    bare = exact_range(known, inputs)
    if isinstance(known, Hinge):
        alone = alone & known.open(inputs)
    spread = found.slopes[0].dim() > alone.dim()
    slopes = tuple(
        torch.where(alone.unsqueeze(-1) if spread else alone, 0.0, k) for k in found.slopes
    )
    low, high = (
        torch.where(alone, bare.lower, found.low),
        torch.where(alone, bare.upper, found.high),
    )
    return Strip(slopes, low, high)


def _smooth(slope: Any, z: Interval, found: Strip) -> Strip:
    """h = share h + k h with k = 1 - share: h is in [s l, u], and h - z in [0, (s - 1) l]; share is
    put for 1 - k, which k as it is may differ from by its rounding.
    """
    low, high = z.lower, z.upper
    open_ = (low < 0) & (high > 0)
    width = torch.where(open_, high - low, 1.0)
    k = torch.where(open_, (high / width).clamp(0, 1), 1.0)
    noise = charge(16) * (low.abs() + high.abs()) + TINY
    below = (1 - k) * slope * low - noise
    above = (1 - k) * high + k * (slope - 1) * low + noise
    return Strip(
        (torch.where(open_, k, found.slopes[0]),), torch.where(open_, below, found.low),
        torch.where(open_, above, found.high),
    )  # fmt: skip
