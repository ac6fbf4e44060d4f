"""What every norm can do, and how the box is seen by all of them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from torchproof.core import keys
from torchproof.core.values import expand


def flat(t: Tensor) -> Tensor:
    """(P, D): what is not the first axis as one."""
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

    def support(self, a: Tensor, radius: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """(P,) the largest <a, d> over ball and box; never less, but for the rounding of a sum."""
        return (a * self.maximiser(a, radius, low, high)).flatten(1).sum(1)

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

    def whole_levels(self, size: Tensor, radius: Tensor, room: Tensor) -> Tensor:
        """How many grey levels each coordinate goes, of the `size` (P, D) that it was to go: inside
        a ball of `radius` (P,) levels, and no farther than the whole levels of `room` (P, D).

        Towards zero, unless a norm knows better: no norm forbids that.
        """
        return torch.minimum(size.floor(), room)


def bound(a: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """How far the box lets each coordinate go in the direction of a; upwards where a is 0."""
    side = torch.copysign(torch.ones_like(a), a)
    return torch.maximum(high * side, low * side)


def widened(radius: Tensor) -> Tensor:
    """The radius with room for float noise: 8/255 in float32 is eight levels of 1/255."""
    return radius * (1 + 8 * torch.finfo(radius.dtype).eps)
