"""Sets of allowed perturbations: a ball cut with a box, balls of balls, and one ball per part.

Every set speaks of P problems at once and offers the same few methods; a search uses nothing else:
`zero`, `sample`, `sphere`, `advance`, `project`, `maximiser`, `support`, `inside`. Lengths given to
`advance` are in units of the set's scale (the radius, for a bounded ball).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from torchproof.core import keys
from torchproof.core.norms import Norm
from torchproof.core.values import expand

# A perturbation counts as inside when it exceeds the radius or the box by no more than float noise.
TOLERANCE = 1e-5


def _slack(dtype: torch.dtype) -> float:
    return TOLERANCE if torch.finfo(dtype).bits <= 32 else 1e-9


@dataclass(frozen=True)
class Ball:
    """{d: length(d) <= radius, low <= d <= high} for each of P problems.

    radius, scale: (P,); low, high: (P, ...), the box seen from the origin (low <= 0 <= high);
    floor,
    ceiling: that box cut with what one coordinate may reach in the ball, computed once per job.
    `scale` is the unit of step lengths and of starts: the radius, or 1 for a ball without bound.
    """

    norm: Norm
    radius: Tensor
    scale: Tensor
    low: Tensor
    high: Tensor
    floor: Tensor
    ceiling: Tensor

    @classmethod
    def of(
        cls, norm: Norm, radius: Tensor, low: Tensor, high: Tensor, scale: Tensor | None = None
    ) -> Ball:
        """The set of perturbations of length <= radius (P,) inside [low, high] (P, ...)."""
        low, high = (
            low.clamp_max(0),
            high.clamp_min(0),
        )  # the origin is allowed even when off by float noise
        reach = expand(norm.reach(radius), low)
        floor, ceiling = torch.maximum(low, -reach), torch.minimum(high, reach)
        return cls(norm, radius, radius if scale is None else scale, low, high, floor, ceiling)

    def within(self, mask: Tensor) -> Ball:
        """The same ball where `mask` (P, ...) holds and nothing elsewhere: the box closes there."""
        low, high = (torch.where(mask, t, torch.zeros_like(t)) for t in (self.low, self.high))
        return Ball.of(self.norm, self.radius, low, high, self.scale)

    def zero(self) -> Tensor:
        """No perturbation."""
        return torch.zeros_like(self.low)

    def sample(self, key: Tensor, stream: int = 0) -> Tensor:
        """A random point of the ball, brought into the box."""
        return self.bring(self.norm.sample(key, self.scale, self.low, stream))

    def sphere(self, key: Tensor, stream: int = 0) -> Tensor:
        """A random point at distance `scale`, brought into the box."""
        return self.project(self.norm.random(key, self.low, stream) * expand(self.scale, self.low))

    def gaussian(self, key: Tensor, sigma: float, stream: int = 0) -> Tensor:
        """Normal noise of standard deviation sigma (input units), brought into the set."""
        shape, dtype = tuple(self.low.shape[1:]), self.low.dtype
        return self.bring(keys.normal(key, 0, shape, stream, dtype) * sigma)

    def advance(self, delta: Tensor, grad: Tensor, length: Tensor | float) -> Tensor:
        """One projected step uphill: project(delta + step of `length` scales along grad)."""
        moved = self.norm.move(delta, grad, length * self.scale, self.low, self.high)
        return self.bring(moved)

    def project(self, delta: Tensor) -> Tensor:
        """The nearest point of the set."""
        return self.norm.project(delta, self.radius, self.floor, self.ceiling)

    def bring(self, delta: Tensor) -> Tensor:
        """`project` that may write over delta, which a search's own buffers allow."""
        return self.norm.bring(delta, self.radius, self.floor, self.ceiling)

    def maximiser(self, a: Tensor) -> Tensor:
        """argmax <a, d> over the set: FGSM's step, AWP's step, a linear bound's worst point."""
        return self.norm.maximiser(a, self.radius, self.floor, self.ceiling)

    def support(self, a: Tensor) -> Tensor:
        """(P,) the largest <a, d> over the set; with no box this is radius times the dual norm."""
        return (a * self.maximiser(a)).flatten(1).sum(1)

    def length(self, delta: Tensor) -> Tensor:
        """(P,) in the ball's norm."""
        return self.norm.length(delta)

    def inside(self, delta: Tensor) -> Tensor:
        """(P,) whether `delta` (P, ...) lies in the set, up to float noise."""
        slack = _slack(delta.dtype)
        fits = self.norm.length(delta) <= self.radius * (1 + slack)
        beyond = self.low - delta
        beyond = torch.maximum(beyond, delta - self.high, out=beyond).reshape(len(delta), -1)
        return fits & (beyond.amax(1) <= slack) if delta.numel() else fits


@dataclass(frozen=True)
class Each:
    """M balls per problem, for leaves (P, M, ...): the inner ball has P * M rows. Methods are those
    of `Ball`.
    """

    inner: Ball
    groups: int

    def _fold(self, t: Tensor) -> Tensor:
        return t.reshape(-1, *t.shape[2:])

    def _unfold(self, t: Tensor) -> Tensor:
        return t.reshape(-1, self.groups, *t.shape[1:])

    def _keys(self, key: Tensor) -> Tensor:
        index = torch.arange(self.groups, device=key.device)
        return keys.mix(key[:, None], index).reshape(-1)

    def _spread(self, length: Tensor | float) -> Tensor | float:
        return length.repeat_interleave(self.groups) if isinstance(length, Tensor) else length

    def zero(self) -> Tensor:
        return self._unfold(self.inner.zero())

    def sample(self, key: Tensor, stream: int = 0) -> Tensor:
        return self._unfold(self.inner.sample(self._keys(key), stream))

    def sphere(self, key: Tensor, stream: int = 0) -> Tensor:
        return self._unfold(self.inner.sphere(self._keys(key), stream))

    def gaussian(self, key: Tensor, sigma: float, stream: int = 0) -> Tensor:
        return self._unfold(self.inner.gaussian(self._keys(key), sigma, stream))

    def advance(self, delta: Tensor, grad: Tensor, length: Tensor | float) -> Tensor:
        folded = self.inner.advance(self._fold(delta), self._fold(grad), self._spread(length))
        return self._unfold(folded)

    def project(self, delta: Tensor) -> Tensor:
        return self._unfold(self.inner.project(self._fold(delta)))

    def bring(self, delta: Tensor) -> Tensor:
        return self._unfold(self.inner.bring(self._fold(delta)))

    def maximiser(self, a: Tensor) -> Tensor:
        return self._unfold(self.inner.maximiser(self._fold(a)))

    def support(self, a: Tensor) -> Tensor:
        return self.inner.support(self._fold(a)).reshape(-1, self.groups).sum(1)

    def length(self, delta: Tensor) -> Tensor:
        """(P,) the longest of the M perturbations."""
        return self.inner.length(self._fold(delta)).reshape(-1, self.groups).amax(1)

    def inside(self, delta: Tensor) -> Tensor:
        return self.inner.inside(self._fold(delta)).reshape(-1, self.groups).all(1)


@dataclass(frozen=True)
class Product:
    """One set per leaf of a dict: layer-wise balls of weights, or an input and the weights
    jointly. Methods are those of `Ball`, leaf by leaf.
    """

    parts: dict[str, Ball | Each]

    def zero(self) -> dict[str, Tensor]:
        return {k: s.zero() for k, s in self.parts.items()}

    def sample(self, key: Tensor, stream: int = 0) -> dict[str, Tensor]:
        return {k: s.sample(keys.mix(key, k), stream) for k, s in self.parts.items()}

    def sphere(self, key: Tensor, stream: int = 0) -> dict[str, Tensor]:
        return {k: s.sphere(keys.mix(key, k), stream) for k, s in self.parts.items()}

    def gaussian(self, key: Tensor, sigma: float, stream: int = 0) -> dict[str, Tensor]:
        return {k: s.gaussian(keys.mix(key, k), sigma, stream) for k, s in self.parts.items()}

    def advance(
        self, delta: dict[str, Tensor], grad: dict[str, Tensor], length: Tensor | float
    ) -> dict[str, Tensor]:
        return {k: s.advance(delta[k], grad[k], length) for k, s in self.parts.items()}

    def project(self, delta: dict[str, Tensor]) -> dict[str, Tensor]:
        return {k: s.project(delta[k]) for k, s in self.parts.items()}

    def bring(self, delta: dict[str, Tensor]) -> dict[str, Tensor]:
        return {k: s.bring(delta[k]) for k, s in self.parts.items()}

    def maximiser(self, a: dict[str, Tensor]) -> dict[str, Tensor]:
        return {k: s.maximiser(a[k]) for k, s in self.parts.items()}

    def support(self, a: dict[str, Tensor]) -> Tensor:
        return torch.stack([s.support(a[k]) for k, s in self.parts.items()]).sum(0)

    def inside(self, delta: dict[str, Tensor]) -> Tensor:
        return torch.stack([s.inside(delta[k]) for k, s in self.parts.items()]).all(0)


Set = Ball | Each | Product
