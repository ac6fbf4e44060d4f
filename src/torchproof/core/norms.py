"""The norms Linf, L2, L1 and L0, exact on ball and box.

Shapes: d, g, a are (P, ...); radius is (P,); low and high have the shape of d. "Ball and box" is
{u: length(u) <= radius, low <= u <= high}, where low <= 0 <= high is the box seen from the point
that is perturbed, already cut with [-reach(radius), reach(radius)]: `sets.Ball` does that once per
job, so that no step repeats it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from torchproof.core import keys
from torchproof.core.values import expand


def _rows(t: Tensor) -> Tensor:
    return t.flatten(1) if t.dim() > 1 else t.unsqueeze(1)


@dataclass(frozen=True)
class Norm(ABC):
    """A way to measure perturbations; lengths and radii are in input units. `least` is the smallest
    radius whose ball holds more than the origin.
    """

    least: ClassVar[float] = 0.0

    @abstractmethod
    def length(self, d: Tensor) -> Tensor:
        """(P,) lengths."""

    @abstractmethod
    def steepest(self, g: Tensor) -> Tensor:
        """argmax <g, u> over length(u) <= 1; zero where g is zero."""

    @abstractmethod
    def project(self, d: Tensor, radius: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """The nearest (Euclidean) point of ball and box."""

    def bring(self, d: Tensor, radius: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """`project` that may write over d."""
        return self.project(d, radius, low, high)

    @abstractmethod
    def maximiser(self, a: Tensor, radius: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """argmax <a, d> over ball and box; coordinates that do not matter stay 0."""

    @abstractmethod
    def random(self, key: Tensor, like: Tensor, stream: int = 0) -> Tensor:
        """A random point of the unit sphere of this norm, with the shape of `like`."""

    def sample(self, key: Tensor, radius: Tensor, like: Tensor, stream: int = 0) -> Tensor:
        """A random point of the ball: the sphere's, pulled in so that it spreads evenly over the
        volume.
        """
        fraction = keys.uniform(key, 1, (), stream, torch.float64) ** (
            1.0 / max(math.prod(like.shape[1:]), 1)
        )
        return self.random(key, like, stream) * expand(radius * fraction.to(radius.dtype), like)

    def reach(self, radius: Tensor) -> Tensor:
        """(P,) how far a single coordinate may go inside the ball."""
        return radius

    def move(self, d: Tensor, g: Tensor, length: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """d plus a step of the given (P,) length uphill along g, not yet projected."""
        return self.steepest(g).mul_(expand(length, g)).add_(d)


class Linf(Norm):
    """Largest absolute coordinate."""

    def length(self, d: Tensor) -> Tensor:
        return _rows(d).abs().amax(1) if d.numel() else d.new_zeros(len(d))

    def steepest(self, g: Tensor) -> Tensor:
        return g.sign()

    def project(self, d: Tensor, radius: Tensor, low: Tensor, high: Tensor) -> Tensor:
        return torch.clamp(d, low, high)

    def bring(self, d: Tensor, radius: Tensor, low: Tensor, high: Tensor) -> Tensor:
        return d.clamp_(low, high)

    def maximiser(self, a: Tensor, radius: Tensor, low: Tensor, high: Tensor) -> Tensor:
        return torch.where(a > 0, high, torch.where(a < 0, low, 0.0))

    def random(self, key: Tensor, like: Tensor, stream: int = 0) -> Tensor:
        """Uniform noise stretched until it touches the sphere, as APGD starts (Croce and Hein
        2020a).
        """
        u = keys.uniform(key, 0, tuple(like.shape[1:]), stream, like.dtype).mul_(2).sub_(1)
        return u / expand(self.length(u).clamp_min(1e-12), u)

    def sample(self, key: Tensor, radius: Tensor, like: Tensor, stream: int = 0) -> Tensor:
        u = keys.uniform(key, 0, tuple(like.shape[1:]), stream, like.dtype).mul_(2).sub_(1)
        return u * expand(radius, u)


def fill(gain: Tensor, edge: Tensor, need: Tensor) -> Tensor:
    """The least level with sum_i gain_i * min(level, edge_i) = need, (P,); a huge one where no
    level is enough.

    gain, edge >= 0: (P, D); need: (P,). The sum is concave, increasing and piecewise linear in the
    level, so Newton from 0 never overshoots and ends on the root after finitely many steps, without
    sorting. Element-wise masks are kept as floats: selecting by bool is ten times slower on a CPU.
    """
    level = torch.zeros_like(need)
    free, part = torch.empty_like(gain), torch.empty_like(gain)
    for _ in range(gain.shape[1] + 1):
        torch.gt(edge, level[:, None], out=free)
        slope = torch.mul(gain, free, out=free).sum(1)
        torch.minimum(edge, level[:, None], out=part)
        missing = need - torch.mul(gain, part, out=part).sum(1)
        step = torch.where(slope > 0, missing / slope, 0.0)
        if bool((step <= level * 1e-6).all()):
            break
        level = level + step.clamp_min(0)
    return torch.where((slope == 0) & (missing > 0), torch.finfo(level.dtype).max, level)


def bound(a: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """How far the box lets each coordinate go in the direction of a; upwards where a is 0."""
    side = torch.copysign(torch.ones_like(a), a)
    return torch.maximum(high * side, low * side)


def _clamp_scaled(a: Tensor, square: Tensor, limit: float, low: Tensor, high: Tensor) -> Tensor:
    """clamp(s * a, low, high), (P, D), with the largest s in [0, limit] for which its Euclidean
    length squared is <= `square`: with t = s^2 that length is sum_i min(t a_i^2, b_i^2).
    """
    gain = a.square()
    edge = (bound(a, low, high).square() + torch.finfo(a.dtype).tiny) / gain  # 0 / 0 would be NaN
    scale = fill(gain, edge, square).sqrt().clamp_max(limit)
    return torch.clamp(a * scale[:, None], low, high)


class L2(Norm):
    """Euclidean length."""

    def length(self, d: Tensor) -> Tensor:
        length: Tensor = torch.linalg.vector_norm(_rows(d), dim=1)
        return length

    def steepest(self, g: Tensor) -> Tensor:
        # float32 squares of very small or large gradients under- or overflow, float64 do not
        length = torch.linalg.vector_norm(_rows(g), dim=1, dtype=torch.float64).to(g.dtype)
        return g / expand(length.clamp_min(torch.finfo(g.dtype).tiny), g)

    def project(self, d: Tensor, radius: Tensor, low: Tensor, high: Tensor) -> Tensor:
        inside = torch.clamp(d, low, high)
        over = self.length(inside) > radius
        if not bool(over.any()):
            return inside
        rows = over.nonzero()[:, 0]
        d_, low_, high_ = (_rows(t)[rows] for t in (d, low, high))
        exact = _clamp_scaled(d_, radius[rows].square(), 1.0, low_, high_)
        inside[rows] = exact.reshape(len(rows), *d.shape[1:])
        return inside

    def maximiser(self, a: Tensor, radius: Tensor, low: Tensor, high: Tensor) -> Tensor:
        # scaling a first keeps a^2 away from under- and overflow; only its direction matters
        unit = a / expand(Linf().length(a).clamp_min(torch.finfo(a.dtype).tiny), a)
        flat = (_rows(t) for t in (low, high))
        return _clamp_scaled(_rows(unit), radius.square(), torch.inf, *flat).reshape(a.shape)

    def random(self, key: Tensor, like: Tensor, stream: int = 0) -> Tensor:
        return self.steepest(keys.normal(key, 0, tuple(like.shape[1:]), stream, like.dtype))


def _soft_clip(d: Tensor, radius: Tensor, room: Tensor) -> Tensor:
    """Magnitudes clip(|d| - shrink, 0, room) with the smallest shrink >= 0 whose sum is <= radius;
    (P, D).

    The sum falls piecewise linearly in the shrink, with kinks at |d| - room and |d|: sort the
    kinks, add up the slopes, and interpolate inside the one segment that holds the root.
    """
    size = d.abs().double()
    room = torch.minimum(room.double(), size)  # a wider box never binds, and may be infinite
    kinks, order = torch.cat([size - room, size], 1).sort(1)
    change = torch.cat([-torch.ones_like(size), torch.ones_like(size)], 1).gather(1, order)
    slope = change.cumsum(1)
    steps = torch.diff(kinks, dim=1)
    total = torch.cat([torch.zeros_like(kinks[:, :1]), (slope[:, :-1] * steps).cumsum(1)], 1)
    total = total + room.sum(1, keepdim=True)
    segment = ((total > radius[:, None]).sum(1, keepdim=True) - 1).clamp_min(0)
    at, height, rate = (t.gather(1, segment) for t in (kinks, total, slope))
    shrink = at + (height - radius[:, None]) / (-rate).clamp_min(1)
    shrink = torch.where(
        total[:, :1] <= radius[:, None], torch.zeros_like(shrink), shrink
    ).clamp_min(0)
    return torch.minimum((size - shrink).clamp_min(0), room).to(d.dtype)


class L1(Norm):
    """Sum of absolute coordinates."""

    def length(self, d: Tensor) -> Tensor:
        return _rows(d).abs().sum(1)

    def steepest(self, g: Tensor) -> Tensor:
        rows = _rows(g)
        top = rows.abs().argmax(1, keepdim=True)
        out = torch.zeros_like(rows).scatter_(1, top, rows.gather(1, top).sign())
        return out.reshape(g.shape)

    def project(self, d: Tensor, radius: Tensor, low: Tensor, high: Tensor) -> Tensor:
        inside = torch.clamp(d, low, high)
        rows = (self.length(inside) > radius).nonzero()[:, 0]
        if len(rows):
            d_ = _rows(d)[rows]
            room = bound(d_, _rows(low)[rows], _rows(high)[rows])
            exact = d_.sign() * _soft_clip(d_, radius[rows], room)
            inside[rows] = exact.reshape(len(rows), *d.shape[1:])
        return inside

    def maximiser(self, a: Tensor, radius: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """Spends the radius on the largest |a| first, each up to its box (fractional knapsack)."""
        rows = _rows(a)
        room = bound(rows, _rows(low), _rows(high)).clamp_max(radius[:, None])
        order = rows.abs().argsort(dim=1, descending=True, stable=True)
        ordered = room.gather(1, order)
        before = ordered.cumsum(1) - ordered
        spent = torch.minimum(ordered, (radius[:, None] - before).clamp_min(0))
        size = torch.zeros_like(rows).scatter_(1, order, spent)
        return (rows.sign() * size).reshape(a.shape)

    def move(self, d: Tensor, g: Tensor, length: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """The steepest step that the box still allows: one coordinate alone would soon be
        saturated.
        """
        return d + self.maximiser(g, length, (low - d).clamp_max(0), (high - d).clamp_min(0))

    def random(self, key: Tensor, like: Tensor, stream: int = 0) -> Tensor:
        """Uniform on the sphere: exponential magnitudes divided by their sum, fair signs."""
        shape = tuple(like.shape[1:])
        e = keys.uniform(key, 0, shape, stream, like.dtype).log_().neg_()
        e = e / expand(self.length(e).clamp_min(1e-12), e)
        return e * keys.signs(key, 2, shape, stream, like.dtype)


class L0(Norm):
    """Number of coordinates that change (a colour pixel counts once per channel)."""

    least: ClassVar[float] = 1.0

    def length(self, d: Tensor) -> Tensor:
        return (_rows(d) != 0).sum(1).to(d.dtype)

    def steepest(self, g: Tensor) -> Tensor:
        """One-hot sign; unbounded without |u| <= 1, which is therefore required here."""
        return L1().steepest(g)

    def _keep(self, gain: Tensor, radius: Tensor) -> Tensor:
        rank = gain.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        return (rank < radius[:, None].floor()) & (gain > 0)

    def project(self, d: Tensor, radius: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """Keeps the coordinates that save most squared distance, each clamped to the box."""
        rows, inside = _rows(d), _rows(torch.clamp(d, low, high))
        gain = rows.square() - (rows - inside).square()
        return torch.where(self._keep(gain, radius), inside, 0.0).reshape(d.shape)

    def maximiser(self, a: Tensor, radius: Tensor, low: Tensor, high: Tensor) -> Tensor:
        rows = _rows(a)
        corner = torch.where(rows > 0, _rows(high), torch.where(rows < 0, _rows(low), 0.0))
        return torch.where(self._keep(rows * corner, radius), corner, 0.0).reshape(a.shape)

    def reach(self, radius: Tensor) -> Tensor:
        return torch.full_like(radius, torch.inf)

    def move(self, d: Tensor, g: Tensor, length: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """Moves the `length` (at least one) most rewarding coordinates to their extremes."""
        room = (low - d).clamp_max(0), (high - d).clamp_min(0)
        return d + self.maximiser(g, length.clamp_min(1), *room)

    def random(self, key: Tensor, like: Tensor, stream: int = 0) -> Tensor:
        """One random coordinate, at -1 or 1."""
        return self.sample(key, like.new_ones(len(like)), like, stream)

    def sample(self, key: Tensor, radius: Tensor, like: Tensor, stream: int = 0) -> Tensor:
        """`radius` random coordinates, at -1 or 1."""
        u = _rows(keys.uniform(key, 0, tuple(like.shape[1:]), stream, like.dtype).mul_(2).sub_(1))
        return torch.where(self._keep(u.abs(), radius), u.sign(), 0.0).reshape(like.shape)


NORMS: dict[str, Norm] = {"linf": Linf(), "l2": L2(), "l1": L1(), "l0": L0()}


def name_of(norm: Norm) -> str:
    """The short name under which `NORMS` lists a norm."""
    return type(norm).__name__.lower()
