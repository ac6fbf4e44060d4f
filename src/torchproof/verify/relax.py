"""Two lines around a nonlinear operation: slopes and intercepts that hold on an interval.

Notation: on [l, u], low * z + low_at <= s(z) <= high * z + high_at.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torchproof.verify.clock import look
from torchproof.verify.domain import OutsideDomain
from torchproof.verify.interval import Interval

GRID, ROUNDS = 8, 2  # in the search for a slope: points of half an interval, and corrections
INNER, LAST = 8, 24  # halvings there, and for what is to hold


class Lines(NamedTuple):
    """Slopes for every live input, (B, ...) like that input, and intercepts like the answer."""

    low: tuple[Tensor, ...]
    low_at: Tensor
    high: tuple[Tensor, ...]
    high_at: Tensor


class Relaxation(ABC):
    """What is known of a nonlinear operation; bounded: it is not defined everywhere, so that what
    is known of its input must never be given up.
    """

    @property
    def bounded(self) -> bool:
        return False

    @abstractmethod
    def lines(self, inputs: Sequence[Interval]) -> Lines:
        """Lines that hold on the intervals of the live inputs."""

    @abstractmethod
    def range(self, inputs: Sequence[Interval]) -> Interval:
        """The interval of the answer."""

    def spread(self, rows: Tensor) -> Tensor:
        """Coefficients (R, *answer) in the shape of the inputs, or one that broadcasts to it."""
        return rows

    def open(self, inputs: Sequence[Interval]) -> Tensor:
        """(B, ...) where tighter bounds of the first input would make tighter lines."""
        return inputs[0].width > 0

    def free(self, inputs: Sequence[Interval]) -> Tensor | None:
        """The least slope (B, ...) where every lower line through 0 of a slope from it to 1 holds,
        NaN elsewhere; None for operations without such lines.
        """
        return None


@dataclass(frozen=True)
class Hinge(Relaxation):
    """Two straight pieces that meet at 0: z above, slope * z below (ReLU, leaky ReLU, PReLU).

    Upper line: the chord. Lower line, for a convex one: by default the piece that leaves the lesser
    area (CROWN, Zhang et al. 2018, adaptive); with `parallel` the chord's slope (Fast-Lin, Weng et
    al. 2018). slope: a number, or a tensor that broadcasts to z; 0 <= slope <= 1.
    """

    slope: Any = 0.0
    parallel: bool = False

    def range(self, inputs: Sequence[Interval]) -> Interval:
        z = inputs[0]
        return Interval(self._at(z.lower), self._at(z.upper))

    def _at(self, z: Tensor) -> Tensor:
        moved: Tensor = z.clamp_min(0) + self.slope * z.clamp_max(0)
        return moved

    def lines(self, inputs: Sequence[Interval]) -> Lines:
        start, end = inputs[0].lower, inputs[0].upper
        above, below = start >= 0, end <= 0
        left, right = start.clamp_max(0), end.clamp_min(0)
        width = (right - left).clamp_min(torch.finfo(start.dtype).tiny)
        chord = (right - self.slope * left) / width
        zero = torch.zeros_like(start)
        one, slope = zero + 1.0, zero + self.slope
        stable = torch.where(above, one, slope)
        crossing = ~(above | below)
        high = torch.where(crossing, chord, stable)
        low = chord if self.parallel else torch.where(end > -start, one, slope)
        low = torch.where(crossing, low, stable)
        # the chord passes through (left, slope * left)
        high_at = torch.where(crossing, (self.slope - chord) * left, zero)
        return Lines((low,), zero, (high,), high_at)

    def open(self, inputs: Sequence[Interval]) -> Tensor:
        return (inputs[0].lower < 0) & (inputs[0].upper > 0)

    def free(self, inputs: Sequence[Interval]) -> Tensor | None:
        least = torch.zeros_like(inputs[0].lower) + self.slope
        return torch.where(self.open(inputs), least, torch.full_like(least, torch.nan))


@dataclass(frozen=True)
class Curve(Relaxation):
    """A function of one variable, by itself. breaks: where its slope begins to rise or to fall, or
    jumps; above: the end of its domain, where it has one; floor: what it never is below; jump: by
    how much the function itself may jump at a break.

    For any slope k the tightest intercept below is min s(z) - k z on [l, u], which an end, a break
    or a root of s'(z) = k attains. The line chosen is the one that touches the convex hull of s at
    the middle of the interval: it has the largest value there, so it leaves the least area. The
    line above is that below -s, found beside it.
    """

    function: Callable[[Tensor], Tensor]
    breaks: tuple[float, ...] = ()
    above: float | None = None
    floor: float = -math.inf
    jump: float = 0.0

    @property
    def bounded(self) -> bool:
        return self.above is not None

    def range(self, inputs: Sequence[Interval]) -> Interval:
        start, end = self._within(inputs[0])
        ends, _ = self._least(torch.zeros_like(start).expand(2, *start.shape), start, end, LAST)
        room = self._jumps(start, end)
        return Interval((ends[0] - room).clamp_min(self.floor), room - ends[1])

    def lines(self, inputs: Sequence[Interval]) -> Lines:
        with torch.no_grad():
            start, end = self._within(inputs[0])
            slopes, at = self._best(start, end)
            room = self._jumps(start, end)
        return Lines((slopes[0],), at[0] - room, (-slopes[1],), room - at[1])

    def _jumps(self, start: Tensor, end: Tensor) -> Tensor | float:
        """The room that a bound leaves where the function jumps, at a place subject to rounding."""
        if not self.jump:
            return 0.0
        near = 4 * torch.finfo(start.dtype).eps
        touched = [(start <= b + near * abs(b)) & (end >= b - near * abs(b)) for b in self.breaks]
        return self.jump * torch.stack(touched).any(0).to(start)

    def _within(self, z: Interval) -> tuple[Tensor, Tensor]:
        if self.above is not None and not bool((z.lower > self.above).all()):
            raise OutsideDomain(
                f"values down to {float(z.lower.min()):.3g} before a function that is defined "
                f"above {self.above:g}",
                "inputs inside its domain",
                "use a smaller eps, or tighter bounds before it",
            )
        return z.lower.detach(), z.upper.detach()

    def _best(self, start: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
        """Slopes and intercepts, (2, ...), of the best lines below s and below -s."""
        sign, middle = _signs(start), start + (end - start) / 2
        tangent = sign * self._slope(middle)
        k = slope = self._hull(start, middle, end, tangent)
        height = torch.full_like(k, -torch.inf)
        for _ in range(ROUNDS):  # k becomes the slope between the places that keep it down
            low, left = self._least(k, start, middle, INNER)
            up, right = self._least(k, middle, end, INNER)
            value = torch.minimum(low, up) + k * middle
            slope = torch.where(value > height, k, slope)
            height = torch.maximum(value, height)
            chord = sign * (self.function(right) - self.function(left)) / (right - left)
            k = torch.where(right > left, chord, tangent)
        slopes = torch.stack([tangent, slope, k])
        at, _ = self._least(slopes, start, end, LAST)
        heights = at + slopes * middle
        best = torch.where(heights.isnan(), -torch.inf, heights).argmax(0, keepdim=True)
        return slopes.gather(0, best)[0], at.gather(0, best)[0]

    def _hull(self, start: Tensor, middle: Tensor, end: Tensor, tangent: Tensor) -> Tensor:
        """(2, ...) the slope of the chord that is lowest at the middle, of those between points of
        the two halves, for s and for -s; the tangent where the interval has no halves.
        """
        half, sign = middle - start, _signs(start)
        share = torch.arange(1, GRID + 1, dtype=start.dtype, device=start.device) / GRID
        share = share.view(-1, *[1] * start.dim())
        # exact at the ends and never beyond them, where there may be nothing
        left = sign * self.function(start + half * (1 - share))[:, None]
        right = sign * self.function(end - (end - middle) * (1 - share))[:, None]
        share = share[:, None]
        lowest, rise = torch.full_like(left[0], torch.inf), torch.zeros_like(left[0])
        for i in range(GRID):
            wide = share + share[i]
            value, j = ((share * left[i] + share[i] * right) / wide).min(0, keepdim=True)
            steep = (right.gather(0, j) - left[i]) / wide.expand_as(right).gather(0, j)
            rise = torch.where(value[0] < lowest, steep[0], rise)
            lowest = torch.minimum(value[0], lowest)
        return torch.where(half > 0, rise / half, tangent)

    def _least(self, k: Tensor, start: Tensor, end: Tensor, halvings: int) -> tuple[Tensor, Tensor]:
        """The least of +-s(z) - k z on [start, end], and where it is; k (..., 2, *start.shape), for
        s and for -s.
        """
        sign, edges = _signs(start), self._edges(start, end)
        edges = edges.view(len(edges), *[1] * (k.dim() - start.dim()), *start.shape)
        before, after = (t.expand(-1, *k.shape) for t in (edges[:-1], edges[1:]))
        for _ in range(halvings):
            look()
            middle = before + (after - before) / 2
            rising = sign * self._slope(middle) < k
            before, after = torch.where(rising, middle, before), torch.where(rising, after, middle)
        places = torch.cat([edges.expand(-1, *k.shape), before, after])
        values = sign * self.function(places) - k * places
        if halvings == LAST:  # between the two, tangents there say how much less it can be
            fall, rise = k - sign * self._slope(before), sign * self._slope(after) - k
            hidden = torch.minimum(fall, rise).clamp_min(0) * (after - before)
            hidden = torch.where(after > before, hidden, torch.zeros_like(hidden))  # not inf * 0
            values[len(edges) :] -= torch.cat([hidden, hidden])
        value, best = values.min(0, keepdim=True)
        return value[0], places.gather(0, best)[0]

    def _edges(self, start: Tensor, end: Tensor) -> Tensor:
        """The ends, and the breaks between them, (pieces + 1, ...)."""
        inside = [torch.full_like(start, b).clamp(start, end) for b in self.breaks]
        return torch.stack([start, *inside, end])

    def _slope(self, z: Tensor) -> Tensor:
        with torch.enable_grad():
            at = z.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.function(at).sum(), at)
        return slope


def _signs(like: Tensor) -> Tensor:
    """1 and -1, to be multiplied with (..., 2, *like.shape)."""
    return torch.tensor([1.0, -1.0], dtype=like.dtype, device=like.device).view(
        2, *[1] * like.dim()
    )


@dataclass(frozen=True)
class Product(Relaxation):
    """x * y of two live inputs (McCormick 1976): planes through the corners of the rectangle."""

    def range(self, inputs: Sequence[Interval]) -> Interval:
        x, y = inputs
        stacked = torch.stack([a * b for a in (x.lower, x.upper) for b in (y.lower, y.upper)])
        return Interval(stacked.amin(0), stacked.amax(0))

    def lines(self, inputs: Sequence[Interval]) -> Lines:
        x, y = inputs
        low_at, high_at = -x.lower * y.lower, -x.lower * y.upper
        return Lines((y.lower, x.lower), low_at, (y.upper, x.lower), high_at)


@dataclass(frozen=True)
class Largest(Relaxation):
    """The maximum over the last axis.

    Below: the entry with the largest lower bound. Above: gamma + sum_i a_i (x_i - l_i) with gamma
    the largest lower bound and a_i = [(u_i - gamma) / (u_i - l_i)]_+ (Boopathy et al. 2019), or
    the largest upper bound where that is lower in the middle.
    """

    def range(self, inputs: Sequence[Interval]) -> Interval:
        return Interval(inputs[0].lower.amax(-1), inputs[0].upper.amax(-1))

    def lines(self, inputs: Sequence[Interval]) -> Lines:
        start, end = inputs[0].lower, inputs[0].upper
        known = self.slanted(inputs)
        over = (end - start.amax(-1, keepdim=True)).clamp_min(0)
        most = end.amax(-1)
        # to the middle the plane rises by half of their sum
        flat = over.sum(-1) > 2 * over.amax(-1)
        high = torch.where(flat[..., None], torch.zeros_like(known.high[0]), known.high[0])
        return known._replace(high=(high,), high_at=torch.where(flat, most, known.high_at))

    def slanted(self, inputs: Sequence[Interval]) -> Lines:
        """The same with the plane of Boopathy et al. throughout."""
        start, end = inputs[0].lower, inputs[0].upper
        gamma, best = start.max(-1, keepdim=True)
        low = torch.zeros_like(start).scatter_(-1, best, 1.0)
        tiny = torch.finfo(start.dtype).tiny
        high = ((end - gamma) / (end - start).clamp_min(tiny)).clamp(0, 1)
        high = torch.where(end > gamma, high, torch.zeros_like(high))
        # an entry that none can exceed is the maximum itself
        rival = end.scatter(-1, best, -torch.inf).amax(-1, keepdim=True)
        alone = gamma >= rival
        high = torch.where(alone, low, high)
        at = gamma[..., 0] - (high * start).sum(-1)
        zero = torch.zeros_like(at)
        return Lines((low,), zero, (high,), torch.where(alone[..., 0], zero, at))

    def spread(self, rows: Tensor) -> Tensor:
        return rows.unsqueeze(-1)
