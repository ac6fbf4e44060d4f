"""Guided adversarial margin attacks (Sriramanan, Addepalli, Baburaj and Babu 2020, arXiv
2011.14969): the margin of probabilities, guided at first by the distance to the clean answer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from torchproof.attack.cases import Point
from torchproof.attack.combine import Attack
from torchproof.attack.pgd import PGD, check_steps
from torchproof.attack.search import Search, State
from torchproof.attack.starts import Corner, Start
from torchproof.attack.with_clean import Informed
from torchproof.core.errors import InputError
from torchproof.core.norms import L1, L2, Linf, Norm
from torchproof.core.objectives import Classification, Goal, TargetedMargin, hard, margin
from torchproof.core.schedules import Linear, Schedule, Steps
from torchproof.core.sets import Set
from torchproof.core.threats import AnyThreat
from torchproof.core.values import expand, tree

GUIDANCE = Linear(50.0, 0.0, 0.25)  # 50, down to 0 over the first 25 of 100 steps


@dataclass(frozen=True)
class GuidedMargin(Classification):
    """max_{j != y} p_j - p_y + w ||p - p(x)||^2, p the probabilities (Sriramanan et al. 2020).

    weight: w, by progress. p(x) is the clean answer, as in the paper; the authors' code takes that
    at the random start.
    """

    weight: Schedule = GUIDANCE

    def loss(self, out: Tensor, goal: Goal) -> Tensor:
        if goal.clean is None:
            raise InputError(
                f"{type(self).__name__} without the clean answers",
                "an attack that is told of them",
                "use Informed(threat, objective, search), as gama_pgd does",
            )
        p, before = out.softmax(1), goal.clean.to(out).softmax(1)
        away = (p - before).square().sum(1)
        return self.lead(p, goal) + self.weight(goal.progress.to(p.dtype)) * away

    def lead(self, p: Tensor, goal: Goal) -> Tensor:
        """(B,) of the likeliest wrong class over the label, in probability."""
        return margin(p, hard(goal.y))


@dataclass(frozen=True)
class GuidedTargetedMargin(GuidedMargin):
    """p_t - p_y + w ||p - p(x)||^2, for one class after another (GAMA-MT)."""

    targeted: ClassVar[bool] = True

    def lead(self, p: Tensor, goal: Goal) -> Tensor:
        return TargetedMargin().loss(p, goal)


@dataclass(frozen=True)
class FrankWolfe(Search):
    """delta <- (1 - g) delta + g argmax <gradient, d> over the set, g = rate * schedule (Frank and
    Wolfe 1956).

    Never leaves a convex set, so nothing is projected. Deviation from Sriramanan et al. 2020: the
    maximiser is that of ball and box together, theirs of the ball, cut to the box afterwards.
    """

    steps: int = 100
    rate: float = 0.5
    start: Start = field(default_factory=Corner)
    schedule: Schedule = Steps((1.0, 0.2, 0.04), (0.6, 0.85, 1.0))

    needs: ClassVar[frozenset[str]] = frozenset({"bounded"})
    norms: ClassVar[frozenset[type[Norm]] | None] = frozenset({Linf, L2, L1})

    def __post_init__(self) -> None:
        check_steps(self.steps)
        if not 0 < self.rate <= 1:
            raise InputError(f"rate = {self.rate!r}", "a number in (0, 1]", "the paper's is 0.5")

    @property
    def random(self) -> bool:
        return self.start.random

    def init(self, set: Set, key: Tensor) -> State:
        return State(self.start(set, key), key.new_zeros(len(key)))

    def step(self, set: Set, key: Tensor, state: State, point: Point) -> State:
        rate = self.rate * self.schedule(state.t.to(point.loss.dtype) / self.steps)
        grad: Any = point.grad
        vertex: Any = set.maximiser(grad)
        delta = tree(
            lambda d, v: torch.lerp(d, v, expand(rate.to(d.dtype), d)), state.delta, vertex
        )
        return State(delta, state.t + 1)


def gama_pgd(
    threat: AnyThreat, steps: int = 100, restarts: int = 1, start: Start = Corner()
) -> Attack:
    """PGD on the margin of probabilities, guided away from the clean answer at first (Sriramanan
    et al. 2020).

    Steps of 2 eps, a tenth from 0.6 T and a hundredth from 0.85 T on; the authors evaluate with
    five restarts and keep the last iterate, here the worst point.
    """
    return Informed(threat, GuidedMargin(), _pgd(steps, start), restarts)


def gama_fw(
    threat: AnyThreat, steps: int = 100, restarts: int = 1, start: Start = Corner()
) -> Attack:
    """Frank-Wolfe steps on the guided margin, for small budgets (Sriramanan et al. 2020)."""
    return Informed(threat, GuidedMargin(), FrankWolfe(steps, start=start), restarts)


def gama_mt(
    threat: AnyThreat, steps: int = 100, targets: int = 9, start: Start = Corner()
) -> Attack:
    """The guided margin to each likely wrong class in turn (Sriramanan et al. 2020)."""
    search = _pgd(steps, start)
    return Informed(threat, GuidedTargetedMargin(), search, targets=targets)


def _pgd(steps: int, start: Start) -> PGD:
    return PGD(steps, 2.0, start, Steps((1.0, 0.1, 0.01), (0.6, 0.85, 1.0)))
