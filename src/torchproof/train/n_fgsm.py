"""Noise-FGSM (de Jorge, Bibi, Volpi, Sanyal, Torr, Rogez and Dokania 2022)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from numbers import Real
from typing import ClassVar

from torch import Tensor

from torchproof.attack.cases import Point
from torchproof.attack.combine import Attack
from torchproof.attack.search import Search, State
from torchproof.attack.starts import Start, Uniform
from torchproof.core.errors import InputError
from torchproof.core.sets import Ball, Set
from torchproof.core.sites import Input
from torchproof.core.threats import Threat
from torchproof.train.fast import SingleStep


@dataclass(frozen=True)
class Noised(State):
    """`delta` is what the image range leaves of `noise`."""

    noise: Tensor


@dataclass(frozen=True)
class NoiseStep(Search):
    """One step of `length` from noise of radius `k`, neither brought back into the ball.

    Both are in the units of the method's eps, the set's radius being k + length of them.
    """

    even: ClassVar[bool] = True

    k: float
    length: float
    needs: ClassVar[frozenset[str]] = frozenset({"bounded", "image"})

    @property
    def steps(self) -> int:
        return 1

    def init(self, set: Set, key: Tensor) -> Noised:
        assert isinstance(set, Ball), "inputs are perturbed within balls"
        noise = set.norm.sample(key, self._share(self.k) * set.radius, set.low)
        return Noised(set.project(noise), key.new_zeros(len(key)), noise)

    def step(self, set: Set, key: Tensor, state: Noised, point: Point) -> Noised:
        assert isinstance(set, Ball) and isinstance(point.grad, Tensor)
        length = self._share(self.length) * set.radius
        moved = set.norm.move(state.noise.clone(), point.grad, length, set.low, set.high)
        return Noised(set.bring(moved), state.t + 1, state.noise)

    def _share(self, part: float) -> float:
        return part / (self.k + self.length)


@dataclass(frozen=True)
class NFGSM(SingleStep):
    """N-FGSM: x' = clip(x + noise + eps sign(grad CE at clip(x + noise))), noise uniform in k eps
    (de Jorge et al. 2022, alg. 1).

    x' is brought back into the range of images only, not into the ball of radius eps: it may be
    (k + 1) eps away, and that is what keeps the method from overfitting catastrophically. k: 2,
    in units of eps; 0 is FGSM-AT. The rest as in `Adversarial`, start and noise apart. Deviation:
    x' is made in eval mode. Raises InputError for k < 0 and for anything but a Threat to images.
    """

    start: Start = field(default_factory=Uniform)
    k: float = 2.0

    def __post_init__(self) -> None:
        if not isinstance(self.k, Real) or not 0 <= self.k < float("inf"):
            raise InputError(f"k = {self.k!r}", "a number >= 0, in units of eps", "2 is usual")
        if self.start != Uniform() or self.noise:
            given = f"NFGSM with start = {self.start!r} and noise = {self.noise!r}"
            raise InputError(given, "its own noise, of radius k", "leave them out, and write k=2")
        if not isinstance(self.threat, Threat) or type(self.threat.site) is not Input:
            given = f"NFGSM with {self.threat!r}"
            raise InputError(given, "a Threat to images", "pass parse('linf:8/255'), for example")
        super().__post_init__()

    @property
    def search(self) -> Search:
        return NoiseStep(self.k, self.length)

    @cached_property
    def attack(self) -> Attack:
        """The attack on the ball that holds noise and step."""
        assert isinstance(self.threat, Threat)
        wide = replace(self.threat, eps=(self.k + self.length) * self.threat.eps)
        return Attack(wide, self.objective, self.search)
