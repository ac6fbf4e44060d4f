"""Projected gradient ascent (Madry et al. 2018) and its momentum variants (Dong et al. 2018, Lin
et al. 2020).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from torchproof.attack.cases import Point
from torchproof.attack.search import Search, State
from torchproof.attack.starts import Start, Uniform
from torchproof.core import keys
from torchproof.core.errors import InputError
from torchproof.core.schedules import Constant, Schedule
from torchproof.core.sets import Set
from torchproof.core.values import expand, tree


def check_steps(steps: int, name: str = "steps") -> None:
    """Raises InputError unless `steps`, which the caller calls `name`, is a whole number >= 1."""
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        raise InputError(f"{name} = {steps!r}", "a whole number >= 1", f"give the number of {name}")


def even(steps: int, length: float | None) -> float:
    """The length of a step, by default 1 / steps, with which the boundary is just reached from the
    clean point (Dong et al. 2018: alpha = eps / T).
    """
    check_steps(steps)
    return 1 / steps if length is None else length


@dataclass(frozen=True)
class PGD(Search):
    """delta <- project(delta + length * eps * steepest(gradient)), `steps` times.

    `length` is the step in units of eps, times `schedule` at each step's progress; by default 2.5
    / steps (Madry et al. 2018's rule). Returned is the worst point seen (evaluation) or the last
    iterate (training).
    """

    even: ClassVar[bool] = True

    steps: int = 20
    length: float | None = None
    start: Start = field(default_factory=Uniform)
    schedule: Schedule = field(default_factory=Constant)

    def __post_init__(self) -> None:
        check_steps(self.steps)
        if not isinstance(self.start, Start) or not callable(self.schedule):
            raise InputError(
                f"start = {self.start!r}, schedule = {self.schedule!r}",
                "a Start and a Schedule",
                "pass start=Uniform() and schedule=Cosine(), for example",
            )
        if self.length is not None and not 0 < self.length < math.inf:
            raise InputError(
                f"length = {self.length!r}", "a number > 0, in units of eps", "write 0.25 for eps/4"
            )

    @property
    def random(self) -> bool:
        return self.start.random

    def init(self, set: Set, key: Tensor) -> State:
        return State(self.start(set, key), key.new_zeros(len(key)))

    def step(self, set: Set, key: Tensor, state: Any, point: Point) -> State:
        grad: Any = point.grad
        return State(set.advance(state.delta, grad, self.stride(state.t, point.loss)), state.t + 1)

    def stride(self, t: Tensor, like: Tensor) -> Tensor | float:
        """Step lengths in units of eps: (P,), or one number for all when they do not change."""
        length = 2.5 / self.steps if self.length is None else self.length
        if isinstance(self.schedule, Constant):
            return length * self.schedule.value
        return length * self.schedule(t.to(like.dtype) / self.steps)


@dataclass(frozen=True)
class NoisyPGD(PGD):
    """PGD that adds normal noise to every step before it is projected, to get past flat spots
    (Zhang et al. 2020, the authors' code of friendly adversarial training).

    noise: its standard deviation, in input units.
    """

    even: ClassVar[bool] = True

    noise: float = 0.001

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.noise < math.inf:
            raise InputError(f"noise = {self.noise!r}", "a number > 0", "use PGD for no noise")

    @property
    def random(self) -> bool:
        return True

    def step(self, set: Set, key: Tensor, state: Any, point: Point) -> State:
        own, streams = keys.mix(key, "noise", state.t), itertools.count()

        def shaken(d: Tensor) -> Tensor:
            shape = tuple(d.shape[1:])
            return d + self.noise * keys.normal(own, 0, shape, next(streams), d.dtype)

        return super().step(set, key, replace(state, delta=tree(shaken, state.delta)), point)


def _mean_scaled(g: Tensor) -> Tensor:
    """A gradient divided by its mean absolute entry, so that gradients of all sizes weigh alike."""
    mean = g.abs().flatten(1).mean(1) if g.dim() > 1 else g.abs()
    return g / expand(mean.clamp_min(torch.finfo(g.dtype).tiny), g)


@dataclass(frozen=True)
class Moving(State):
    """A state with a velocity."""

    velocity: Any


@dataclass(frozen=True)
class MomentumPGD(PGD):
    """PGD along a decayed sum of gradients, each scaled by its mean size (MI-FGSM, Dong et al.
    2018, eq. 6).
    """

    even: ClassVar[bool] = True

    decay: float = 1.0

    def init(self, set: Set, key: Tensor) -> Moving:
        delta = self.start(set, key)
        return Moving(delta, key.new_zeros(len(key)), tree(torch.zeros_like, delta))

    def step(self, set: Set, key: Tensor, state: Any, point: Point) -> Moving:
        velocity = tree(lambda v, g: self.decay * v + _mean_scaled(g), state.velocity, point.grad)
        delta: Any = set.advance(state.delta, velocity, self.stride(state.t, point.loss))
        return Moving(delta, state.t + 1, velocity)


@dataclass(frozen=True)
class Looking(Moving):
    """`delta` is the point looked ahead at, `base` the iterate itself."""

    base: Any


@dataclass(frozen=True)
class NesterovPGD(MomentumPGD):
    """Momentum that asks where the velocity would lead (NI-FGSM, Lin et al. 2020, eq. 6-8).

    Deviation: the point looked ahead at is brought into the set, so that it may count as a result.
    """

    even: ClassVar[bool] = True

    def init(self, set: Set, key: Tensor) -> Looking:
        delta = self.start(set, key)
        velocity, base = tree(torch.zeros_like, delta), tree(torch.clone, delta)
        return Looking(delta, key.new_zeros(len(key)), velocity, base)

    def step(self, set: Set, key: Tensor, state: Any, point: Point) -> Looking:
        velocity = tree(lambda v, g: self.decay * v + _mean_scaled(g), state.velocity, point.grad)
        stride = self.stride(state.t, point.loss)
        base: Any = set.advance(tree(torch.clone, state.base), velocity, stride)
        ahead: Any = set.advance(tree(torch.clone, base), velocity, self.decay * stride)
        return Looking(ahead, state.t + 1, velocity, base)
