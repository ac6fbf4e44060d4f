"""What the network ties down, as products of linear forms of y, and the quadratic of multipliers.

For a ReLU h = max(z, 0) of open sign with l <= z <= u, every factor in [0, 1] on the network:
on = h / u, off = (h - z) / (u - l), low = (z - l) / (u - l), high = (u - z) / (u - l), and
gap = low - on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from torchproof.verify.sdp.lifted import Forms, Lifted

ON, OFF, GAP, ONE_OF, WITHIN = range(5)
"""Rows of multipliers, for on >= 0, off >= 0, gap >= 0 (the triangle's upper side), on * off = 0,
low * high >= 0 (also for ReLUs whose sign is settled).
"""


@dataclass(frozen=True)
class Factors:
    """(P, M, ...) each, and t and the margin (P, 1, ...), (P, ...)."""

    t: Tensor
    on: Tensor
    off: Tensor
    low: Tensor
    high: Tensor
    margin: Tensor

    @classmethod
    def of(cls, lifted: Lifted, forms: Forms) -> Factors:
        s = Scales.of(lifted, forms.before.dim() - 2)
        t, z = forms.t.unsqueeze(1), forms.before
        low, high = (z - s.low * t) * s.within, (s.high * t - z) * s.within
        return cls(t, forms.after * s.on, (forms.after - z) * s.off, low, high, forms.margin)

    def products(self) -> Tensor:
        """(P, 5, M, ...) of the one vector whose forms these are."""
        gap = self.low - self.on
        with_one = [self.t * factor for factor in (self.on, self.off, gap)]
        return torch.stack([*with_one, self.on * self.off, self.low * self.high], 1)


@dataclass(frozen=True)
class Scales:
    """What factors are multiplied with, 0 where there is nothing to say; low, high: of z."""

    on: Tensor
    off: Tensor
    within: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def of(cls, lifted: Lifted, axes: int) -> Scales:
        """axes: behind the (P, M) of the factors."""
        low, high, open_ = lifted.low, lifted.high, lifted.open
        width = high - low
        on = torch.where(open_, 1 / torch.where(open_, high, 1.0), 0.0)
        wide = width > 0
        within = torch.where(wide, 1 / torch.where(wide, width, 1.0), 0.0)
        off = torch.where(open_, within, 0.0)
        return cls(*(t.view(*t.shape, *[1] * axes) for t in (on, off, within, low, high)))


@dataclass(frozen=True)
class Quadratic:
    """y^T A y = t * margin - sum of multiplier * product: with multipliers (P, 5, M), of which all
    but those of ONE_OF are >= 0, it is at most the margin on the network.
    """

    lifted: Lifted
    _many: dict[int, Quadratic] = field(default_factory=dict)

    @cached_property
    def scales(self) -> Scales:
        return Scales.of(self.lifted, 0)

    def products(self, y: Tensor) -> Tensor:
        """(P, 5, M) products at y (P, N): what the value loses to a multiplier."""
        return Factors.of(self.lifted, self.lifted.forms(y)).products()

    def each(self, vectors: Tensor) -> Tensor:
        """(P, k, 5, M) products at each of vectors (P, k, N)."""
        problems, count = vectors.shape[:2]
        if self._many.get(count) is None:
            which = torch.arange(problems, device=vectors.device).repeat_interleave(count)
            self._many[count] = Quadratic(self.lifted.take(which))
        found = self._many[count].products(vectors.flatten(0, 1))
        return found.view(problems, count, *found.shape[1:])

    def times(self, multipliers: Tensor, y: Tensor) -> Tensor:
        """A y, (P, N)."""
        f = Factors.of(self.lifted, self.lifted.forms(y))
        on, off, gap, one_of, within = multipliers.unbind(1)
        s, t = self.scales, f.t
        d_on = (gap - on) * t - one_of * f.off
        d_off = -off * t - one_of * f.on
        d_low = -gap * t - within * f.high
        d_high = -within * f.low
        d_t = f.margin - (on * f.on + off * f.off + gap * (f.low - f.on)).sum(1)
        d_t = d_t + ((s.high * d_high - s.low * d_low) * s.within).sum(1)
        before = (d_low - d_high) * s.within - d_off * s.off
        after = d_on * s.on + d_off * s.off
        return self.lifted.back(Forms(d_t, before, after, t[:, 0])) / 2

    def sizes(self, kept: Tensor, rows: int = 256) -> dict[str, Tensor]:
        """Of a single problem, (M,) the sums of the absolute entries of the factors' forms, and ()
        of the margin's, by name.
        """
        total: dict[str, Tensor] = {}
        for some in torch.split(kept.nonzero()[:, 0], rows):
            unit = torch.nn.functional.one_hot(some, len(kept)).to(self.lifted.rows)
            many = self.lifted.take(torch.zeros_like(some))
            f = Factors.of(many, many.forms(unit))
            for name in ("on", "off", "low", "high", "margin"):
                part = getattr(f, name).abs().sum(0)
                total[name] = total[name] + part if name in total else part
        return total

    def matrix(self, multipliers: Tensor, kept: Tensor, rows: int = 256) -> Tensor:
        """(n, n) A of a single problem for the n entries of y that are kept (N,), column by column;
        multipliers (1, 5, M).
        """
        places, columns = kept.nonzero()[:, 0], []
        for some in torch.split(places, rows):
            unit = torch.nn.functional.one_hot(some, len(kept)).to(multipliers)
            many = Quadratic(self.lifted.take(torch.zeros_like(some)))
            columns.append(many.times(multipliers.expand(len(some), -1, -1), unit)[:, places])
        made = torch.cat(columns)
        return (made + made.T) / 2


def crown(quadratic: Quadratic) -> Tensor:
    """(P, 5, M) multipliers of linear factors alone, found like the lines of CROWN (Zhang et al.
    2018), from the last ReLU to the first: A is linear in w then, and its least value over the box
    is CROWN's bound on these intervals.
    """
    lifted = quadratic.lifted
    one = torch.zeros_like(lifted.mask, dtype=lifted.rows.dtype)
    one[:, 0] = 1.0
    made = one.new_zeros(len(lifted), 5, lifted.low.shape[1])
    last, inputs = made.shape[2], lifted.box.lower.shape[1]
    for size in reversed(lifted.sizes):
        part = slice(last - size, last)
        low, high, open_ = (t[:, part] for t in (lifted.low, lifted.high, lifted.open))
        # what the margin gains, or loses, with every unit of h / u
        slope = 4 * quadratic.times(made, one)[:, 1 + inputs :][:, part] * open_
        gain, whole = slope.clamp_min(0), high > -low
        made[:, ON, part] = torch.where(whole, 0.0, gain)
        made[:, OFF, part] = torch.where(whole, gain * (high - low) / high, 0.0)
        made[:, GAP, part] = -slope.clamp_max(0)
        last = part.start
    return made
