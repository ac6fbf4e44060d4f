"""Adam (Kingma and Ba 2015) as a search: projected ascent with a step size per coordinate."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from torchproof.attack.cases import Point
from torchproof.attack.pgd import check_steps
from torchproof.attack.search import Search, State
from torchproof.attack.starts import Start, Zero
from torchproof.core.errors import InputError
from torchproof.core.sets import Ball, Set
from torchproof.core.values import expand

_TINY = 1e-8  # the paper's epsilon: keeps apart from 0 / 0


@dataclass(frozen=True)
class Moments(State):
    """A state with the decayed means of the gradient and of its square."""

    first: Tensor
    second: Tensor


@dataclass(frozen=True)
class Adam(Search):
    """delta <- project(delta + length * eps * m / (sqrt(v) + 1e-8)), m and v the corrected moments.

    `length` is in units of eps. For estimated gradients, whose noise it averages: each coordinate
    moves by at most about `length`, by less where the estimates contradict each other.
    """

    steps: int = 40
    length: float = 0.1
    start: Start = field(default_factory=Zero)
    betas: tuple[float, float] = (0.9, 0.999)

    needs: ClassVar[frozenset[str]] = frozenset({"image"})

    def __post_init__(self) -> None:
        check_steps(self.steps)
        fits = all(0 <= beta < 1 for beta in self.betas)
        if not (0 < self.length < math.inf and fits):
            raise InputError(
                f"length = {self.length!r}, betas = {self.betas!r}",
                "a length > 0 in units of eps, and two numbers in [0, 1)",
                "the usual betas are (0.9, 0.999)",
            )

    @property
    def random(self) -> bool:
        return self.start.random

    def init(self, set: Set, key: Tensor) -> Moments:
        delta = self.start(set, key)
        return Moments(delta, key.new_zeros(len(key)), *map(torch.zeros_like, (delta, delta)))

    def step(self, set: Set, key: Tensor, state: Moments, point: Point) -> Moments:
        assert isinstance(set, Ball), "perturbations of images lie in balls"
        grad: Any = point.grad
        t, (b1, b2) = state.t + 1, self.betas
        first = torch.lerp(grad, state.first, b1)
        second = torch.lerp(grad.square(), state.second, b2)
        m, v = (
            moment / expand(1 - beta ** t.to(grad.dtype), grad)
            for moment, beta in ((first, b1), (second, b2))
        )
        stride = expand(self.length * set.scale, grad)
        return Moments(set.bring(state.delta + stride * m / (v.sqrt() + _TINY)), t, first, second)
