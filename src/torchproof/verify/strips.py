"""A strip around a nonlinear operation: slopes k such that s(z) - <k, z> stays within an interval.

A zonotope wants one slope where linear bounds have two. Any slope is sound with the interval that
belongs to it; the narrower the strip, the less noise it adds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from torchproof.verify.interval import Interval
from torchproof.verify.relax import Curve, Hinge, Largest, Lines, Product, Relaxation


class Strip(NamedTuple):
    """|s(z) - <slopes, z> - middle| <= radius; slopes like the inputs, the rest like the answer."""

    slopes: tuple[Tensor, ...]
    middle: Tensor
    radius: Tensor


def strip(known: Relaxation, inputs: Sequence[Interval]) -> Strip:
    """The strip of a nonlinear operation on the intervals of its live inputs.

    Hinge: the chord's slope, lam = u / (u - l) for ReLU (Singh et al. 2018, thm. 3.1). Curve: the
    slope of the narrowest strip among those of the two lines, the chord and min(s'(l), s'(u)), the
    slope of Singh et al. 2018 for sigmoid and tanh. Product: the centres. Otherwise, as for a
    maximum: the slopes of the line below, of the line above, or 0, entry by entry.
    """
    if isinstance(known, Hinge):
        lines = replace(known, parallel=True).lines(inputs)
        return _centred(lines.low, lines.low_at, lines.high_at)
    if isinstance(known, Curve):
        return _curve(known, inputs[0])
    if isinstance(known, Product):
        return _product(*inputs)
    return _largest(known, inputs[0])


def _centred(slopes: tuple[Tensor, ...], low: Tensor, high: Tensor) -> Strip:
    radius = (high - low) / 2
    return Strip(slopes, low + radius, radius.clamp_min(0))


def _curve(known: Curve, z: Interval) -> Strip:
    lines, width = known.lines([z]), z.width
    ends = [_slope(known, end) for end in (z.lower, z.upper)]
    rise = known.function(z.upper) - known.function(z.lower)
    chord = torch.where(width > 0, rise / width, ends[0])
    k = torch.stack([lines.low[0], lines.high[0], chord, torch.minimum(*ends)])
    turned = Curve(lambda v: known.function(v) - k * v, known.breaks, known.above, jump=known.jump)
    left = turned.range([Interval(z.lower.expand_as(k), z.upper.expand_as(k))])
    best = left.width.argmin(0, keepdim=True)
    slope, low, high = (t.gather(0, best)[0] for t in (k, left.lower, left.upper))
    return _centred((slope,), low, high)


def _slope(known: Curve, z: Tensor) -> Tensor:
    with torch.enable_grad():
        at = z.detach().requires_grad_()
        (slope,) = torch.autograd.grad(known.function(at).sum(), at)
    return slope


def _product(x: Interval, y: Interval) -> Strip:
    """x y = cy x + cx y - cx cy + (x - cx)(y - cy), the last within rx ry."""
    rx, ry = x.width / 2, y.width / 2
    cx, cy = x.lower + rx, y.lower + ry
    return Strip((cy, cx), -cx * cy, rx * ry)


def _largest(known: Relaxation, z: Interval) -> Strip:
    assert isinstance(known, Largest)
    lines, answer = known.slanted([z]), known.range([z])
    tries = [lines.low[0], lines.high[0], torch.zeros_like(lines.low[0])]
    found = [_left(k, z, lines, answer) for k in tries]
    low, high = (torch.stack([getattr(f, end) for f in found]) for end in ("lower", "upper"))
    best = (high - low).argmin(0, keepdim=True)
    k = torch.stack(tries).gather(0, best.unsqueeze(-1).expand(1, *tries[0].shape))[0]
    return _centred((k,), low.gather(0, best)[0], high.gather(0, best)[0])


def _left(k: Tensor, z: Interval, lines: Lines, answer: Interval) -> Interval:
    """Where s(z) - <k, z> is, by the lines and by the interval of the answer."""
    below, above = _dot(lines.low[0] - k, z), _dot(lines.high[0] - k, z)
    taken = _dot(k, z)
    low = torch.maximum(lines.low_at + below.lower, answer.lower - taken.upper)
    high = torch.minimum(lines.high_at + above.upper, answer.upper - taken.lower)
    return Interval(low, high)


def _dot(a: Tensor, z: Interval) -> Interval:
    up, down = a.clamp_min(0), a.clamp_max(0)
    low = (up * z.lower + down * z.upper).sum(-1)
    return Interval(low, (up * z.upper + down * z.lower).sum(-1))
