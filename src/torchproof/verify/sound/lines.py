"""Lines around nonlinear operations that hold exactly, as the float64 numbers they are.

Slopes may be anything within their range, so their rounding costs nothing; the intercepts are then
worked out for these slopes, and moved outward by more than their own rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from torchproof.verify.interval import Interval
from torchproof.verify.relax import Curve, Hinge, Largest, Lines, Product, Relaxation
from torchproof.verify.sound.rounding import TINY, charge, outward, size

Rule = Callable[[Any, Sequence[Interval]], Lines]


def exact_lines(known: Relaxation, inputs: Sequence[Interval]) -> Lines:
    """Lines that hold in real arithmetic on intervals of float64 numbers."""
    return RULES[type(known)](known, inputs)


def exact_range(known: Relaxation, inputs: Sequence[Interval]) -> Interval:
    """An interval that holds in real arithmetic; the corners of a product are rounded once."""
    if isinstance(known, Curve):
        values = known.function(corners(known, inputs[0]))
        return Interval(values.amin(0), values.amax(0))
    found = known.range(inputs)
    plain = isinstance(known, Largest) or (isinstance(known, Hinge) and _is_relu(known))
    return found if plain else outward(found)


def _is_relu(known: Hinge) -> bool:
    return not isinstance(known.slope, Tensor) and known.slope == 0


def _hinge(known: Hinge, inputs: Sequence[Interval]) -> Lines:
    """Any slope from the lower piece's to 1 holds below, through 0. Above, the line of slope k has
    to pass both ends: at = max((s - k) l, (1 - k) u), of numbers that are rounded twice each.
    """
    start, end = inputs[0].lower, inputs[0].upper
    lines = known.lines(inputs)
    least = torch.zeros_like(start) + known.slope
    low, high = (torch.maximum(k, least).clamp_max(1.0) for k in (lines.low[0], lines.high[0]))
    crossing = known.open(inputs)
    at = torch.maximum((least - high) * start, (1 - high) * end)
    zero = torch.zeros_like(start)
    high_at = torch.where(crossing, at * (1 + charge(4)) + TINY, zero)
    return Lines((low,), zero, (high,), high_at)


def _product(known: Product, inputs: Sequence[Interval]) -> Lines:
    """Planes through corners; their intercepts are one product each."""
    lines = known.lines(inputs)
    low_at, high_at = (t.abs() * charge(2) + TINY for t in (lines.low_at, lines.high_at))
    return lines._replace(low_at=lines.low_at - low_at, high_at=lines.high_at + high_at)


def _largest(known: Largest, inputs: Sequence[Interval]) -> Lines:
    """Below, an entry itself. Above, the largest upper bound, or gamma + sum a_i (x_i - l_i) with
    0 <= a_i <= 1 and gamma >= l: it lacks at most u_i - gamma - a_i (u_i - l_i) for the entry that
    is the maximum, which is 0 but for the rounding of a_i.
    """
    lines, z = known.lines(inputs), inputs[0]
    noise = charge(z.lower.shape[-1] + 16) * (2 * size(z)).sum(-1) + TINY
    rival = torch.where(lines.low[0] == 1, -torch.inf, z.upper).amax(-1)
    alone = z.lower.amax(-1) >= rival  # that entry is the maximum itself, and the lines are exact
    return lines._replace(high_at=torch.where(alone, lines.high_at, lines.high_at + noise))


def _pieces(known: Curve, inputs: Sequence[Interval]) -> Lines:
    """A function of straight pieces is nearest to a line at a corner. Its values are exact there,
    for it copies its argument, its negative or a constant.
    """
    lines, ends = known.lines(inputs), corners(known, inputs[0])
    values, at = known.function(ends), []
    for sign, slope in ((1.0, lines.low[0]), (-1.0, lines.high[0])):
        moved = slope * ends
        noise = charge(4) * (values.abs() + moved.abs()) + TINY
        at.append(sign * (sign * (values - moved) - noise).amin(0))
    return Lines(lines.low, at[0], lines.high, at[1])


def corners(known: Curve, z: Interval) -> Tensor:
    """The ends, and the breaks between them, (pieces + 1, ...)."""
    inside = [torch.full_like(z.lower, b).clamp(z.lower, z.upper) for b in known.breaks]
    return torch.stack([z.lower, *inside, z.upper])


STRAIGHT = frozenset({"hardtanh", "relu6", "clamp", "clamp_min", "clamp_max", "abs"})
"""Operations whose curve has straight pieces and is not rounded."""
RULES: dict[type[Relaxation], Rule] = {Hinge: _hinge, Product: _product, Largest: _largest,
                                       Curve: _pieces}  # fmt: skip


def has_lines(kind: str, known: Relaxation) -> bool:
    """Are there lines that hold exactly for operations of this kind?"""
    return type(known) in RULES and (not isinstance(known, Curve) or kind in STRAIGHT)
