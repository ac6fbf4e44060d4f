"""Decoupled direction and norm: the direction follows the gradient, the length grows until the
point is adversarial and shrinks while it is (Rony et al. 2019).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from torchproof.attack.cases import Point
from torchproof.attack.combine import Attack
from torchproof.attack.fab import require_norm
from torchproof.attack.pgd import check_steps
from torchproof.attack.search import Search, State
from torchproof.core import keys
from torchproof.core.errors import InputError
from torchproof.core.norms import L2, Norm
from torchproof.core.objectives import CrossEntropy, Objective
from torchproof.core.schedules import Cosine
from torchproof.core.sets import Set
from torchproof.core.threats import AnyThreat
from torchproof.core.values import expand


@dataclass(frozen=True)
class Sized(State):
    """`length` (P,): how long the next perturbation is, in input units."""

    length: Tensor


@dataclass(frozen=True)
class DDN(Search):
    """d <- eps_k u / |u|, u = d + alpha_k g / |g|; eps_k = (1 - gamma) eps_{k-1} after a win, else
    (1 + gamma) eps_{k-1} (Algorithm 1); alpha falls from 1 to 0.01 along half a cosine.

    The result is clipped to the box; `length` is eps_0 in input units. Deviation: nothing is
    quantised. Norm: L2.
    """

    steps: int = 100
    gamma: float = 0.05
    length: float = 1.0

    wanders: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"box"})
    norms: ClassVar[frozenset[type[Norm]] | None] = frozenset({L2})

    def __post_init__(self) -> None:
        check_steps(self.steps)
        if not 0 < self.gamma < 1 or not self.length > 0:
            given = f"gamma = {self.gamma!r}, length = {self.length!r}"
            raise InputError(given, "gamma in (0, 1) and length > 0", "the paper's are 0.05 and 1")

    @property
    def random(self) -> bool:
        return False

    def init(self, set: Set, key: Tensor) -> Sized:
        ball = require_norm(self, set)
        return Sized(
            ball.zero(), key.new_zeros(len(key)), torch.full_like(ball.radius, self.length)
        )

    def step(self, set: Set, key: Tensor, state: Sized, point: Point) -> Sized:
        ball = require_norm(self, set)
        alpha = Cosine(1.0, 0.01)(state.t.to(point.loss.dtype) / self.steps)
        way = direction(point.grad, key, state.t)
        moved = state.delta + way * expand(alpha, way)
        length = state.length * (1 + self.gamma * (1 - 2 * point.won.to(state.length)))
        delta = L2().steepest(moved).mul_(expand(length, moved))
        return Sized(torch.clamp(delta, ball.low, ball.high), state.t + 1, length)


def direction(grad: Any, key: Tensor, t: Tensor) -> Tensor:
    """The gradient (P, ...) scaled to Euclidean length 1; a random one, by (key, t), where it is
    zero, as the released code of DDN has it: at the clean point nothing else would ever move.
    """
    unit = L2().steepest(grad)
    blind = (unit.flatten(1) == 0).all(1).nonzero()[:, 0]
    if len(blind):
        unit[blind] = L2().random(keys.mix(key[blind], "blind", t[blind]), unit[blind])
    return unit


def ddn(threat: AnyThreat, steps: int = 100, objective: Objective = CrossEntropy()) -> Attack:
    """The shortest L2 perturbation by length and direction apart (DDN, Rony et al. 2019)."""
    return Attack(threat, objective, DDN(steps))
