"""Margin decomposition (Ma, Jiang, Huang, Weng and Bailey 2023, arXiv 2006.13726): where the two
terms of the margin pull unevenly, each is attacked by itself first, then both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from torchproof.attack.combine import Attack, Chain
from torchproof.attack.pgd import PGD, check_steps
from torchproof.attack.starts import Start, Uniform
from torchproof.core.errors import InputError, unknown
from torchproof.core.objectives import (
    Alternating,
    Classification,
    Goal,
    Margin,
    Objective,
    TargetedMargin,
    hard,
    margin,
)
from torchproof.core.schedules import Cosine, EachStage, Schedule, Steps
from torchproof.core.threats import AnyThreat


@dataclass(frozen=True)
class OwnLogit(Classification):
    """sign * z_y."""

    sign: float = -1.0

    def loss(self, out: Tensor, goal: Goal) -> Tensor:
        return self.sign * out.gather(1, hard(goal.y)[:, None])[:, 0]


@dataclass(frozen=True)
class RivalLogit(Classification):
    """max_{j != y} z_j."""

    def loss(self, out: Tensor, goal: Goal) -> Tensor:
        own = out.gather(1, hard(goal.y)[:, None])[:, 0]
        return margin(out, hard(goal.y)) + own


@dataclass(frozen=True)
class TargetLogit(Classification):
    """z_t; any misclassification wins."""

    targeted: ClassVar[bool] = True

    def loss(self, out: Tensor, goal: Goal) -> Tensor:
        return out.gather(1, goal.target[:, None])[:, 0]


def _constant(until: tuple[float, ...]) -> Schedule:
    return Steps((1.0, 0.125), until)


def _cosine(until: tuple[float, ...]) -> Schedule:
    return EachStage(Cosine(), until)


STEP_SIZES: dict[str, Callable[[tuple[float, ...]], Schedule]] = {
    "constant": _constant,
    "cosine": _cosine,
}
"""Of 2 eps, by name: until the change 2 eps and eps / 4 afterwards, as the authors' code has it;
or a cosine from 2 eps to 0 before the change and again after it, as the paper's later version.
"""


def md(
    threat: AnyThreat,
    steps: int = 40,
    change: int = 20,
    restarts: int = 1,
    step_size: str = "constant",
    start: Start = Uniform(),
) -> Chain:
    """One term of the margin first, then the margin: two runs, one for each term (Ma et al. 2023).

    The first step pushes the label's logit up, steps 1 to change - 1 push one term alone (the
    label's logit down, in the second run the best other one up), the rest max_{j != y} z_j - z_y.
    step_size: a name of `STEP_SIZES`. Deviation: restarts of the first run come before the second
    run.
    """
    terms = (OwnLogit(), RivalLogit())
    search = _search(steps, change, step_size, start)
    parts = [_stages(term, Margin(), steps, change) for term in terms]
    return Chain([Attack(threat, part, search, restarts) for part in parts])


def mdmt(
    threat: AnyThreat,
    steps: int = 40,
    change: int = 20,
    targets: int = 9,
    step_size: str = "constant",
    start: Start = Uniform(),
) -> Chain:
    """Margin decomposition at each likely wrong class, z_t - z_y in place of the margin (Ma et al.
    2023).

    Deviation: the authors run all classes in order, the label itself included; here the likeliest
    `targets` wrong ones, all of the first run before the second.
    """
    terms = (OwnLogit(), TargetLogit())
    search = _search(steps, change, step_size, start)
    parts = [_stages(term, TargetedMargin(), steps, change) for term in terms]
    return Chain([Attack(threat, part, search, targets=targets) for part in parts])


def _stages(term: Objective, both: Objective, steps: int, change: int) -> Alternating:
    return Alternating((OwnLogit(1.0), term, both), (1 / steps, change / steps, 1.0))


def _search(steps: int, change: int, step_size: str, start: Start) -> PGD:
    check_steps(steps)
    if not 1 <= change <= steps:
        given = f"change = {change} of {steps} steps"
        raise InputError(given, "a step between the first and the last", "half of them is usual")
    if step_size not in STEP_SIZES:
        raise unknown("schedule of step sizes", step_size, STEP_SIZES)
    return PGD(steps, 2.0, start, STEP_SIZES[step_size]((change / steps, 1.0)))
