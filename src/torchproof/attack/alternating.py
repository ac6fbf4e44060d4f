"""PGD that alternates between objectives (Antoniou, Georgiou and Potamianos 2022, arXiv
2212.07992), with every schedule of objectives and of step sizes that its authors publish.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from torchproof.attack.combine import Attack
from torchproof.attack.pgd import PGD
from torchproof.attack.starts import Start, Zero
from torchproof.core import keys
from torchproof.core.errors import InputError, unknown
from torchproof.core.objectives import (
    DLR,
    Alternating,
    Classification,
    CrossEntropy,
    Goal,
    Margin,
    Objective,
)
from torchproof.core.schedules import Constant, Cosine, EachStage, Schedule, Steps
from torchproof.core.threats import AnyThreat


@dataclass(frozen=True)
class _Several(Classification):
    """Made of several objectives; what they read of the goal, the whole reads too."""

    parts: tuple[Objective, ...]

    def __post_init__(self) -> None:
        if not self.parts:
            raise InputError("no objectives", "at least one", "write (CrossEntropy(), Margin())")
        for trait in ("targeted", "soft"):
            object.__setattr__(self, trait, any(getattr(part, trait) for part in self.parts))

    def losses(self, out: Tensor, goal: Goal) -> Tensor:
        """(parts, B)."""
        return torch.stack([part.loss(out, goal) for part in self.parts])


@dataclass(frozen=True)
class CoinFlip(_Several):
    """One of the parts at each step, drawn anew for every example and step (the baseline of
    Antoniou et al. 2022, who draw once per step for the whole batch).
    """

    def loss(self, out: Tensor, goal: Goal) -> Tensor:
        if goal.key is None:
            raise InputError("a goal without random keys", "one key per problem", "pass Goal.key")
        step = goal.progress.double().view(torch.int64)  # its bits: each step has another number
        part = keys.integers(keys.mix(goal.key, step, "coin"), 0, len(self.parts), ())
        return self.losses(out, goal).gather(0, part[None])[0]


@dataclass(frozen=True)
class Mixture(_Several):
    """sum_i weights[i] * loss_i, all the way (the baseline of Antoniou et al. 2022)."""

    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.weights) != len(self.parts):
            given = f"{len(self.weights)} weights for {len(self.parts)} objectives"
            raise InputError(given, "one weight each", "write Mixture((a, b), (0.5, 0.5))")

    def loss(self, out: Tensor, goal: Goal) -> Tensor:
        losses = self.losses(out, goal)
        weights = losses.new_tensor(self.weights)
        return (weights[:, None] * losses).sum(0)


_CE, _CW, _DLR = CrossEntropy(), Margin(), DLR()
_HALVES, _THIRDS = (0.5, 1.0), (0.33, 0.66, 1.0)  # of 100 steps: 0-32, 33-65, 66-99

LOSSES: dict[str, Objective] = {
    "CE": _CE,
    "CW": _CW,
    "DLR": _DLR,
    "CE-CW": Alternating((_CE, _CW), _HALVES),
    "CW-CE": Alternating((_CW, _CE), _HALVES),
    "CE-DLR": Alternating((_CE, _DLR), _HALVES),
    "DLR-CE": Alternating((_DLR, _CE), _HALVES),
    "CW-DLR": Alternating((_CW, _DLR), _HALVES),
    "DLR-CW": Alternating((_DLR, _CW), _HALVES),
    "CE-CW-DLR": Alternating((_CE, _CW, _DLR), _THIRDS),
    "CE-DLR-CW": Alternating((_CE, _DLR, _CW), _THIRDS),
    "CE|DLR": CoinFlip((_CE, _DLR)),
    "0.25CE+0.75CW": Mixture((_CE, _CW), (0.25, 0.75)),
    "0.75CE+0.25CW": Mixture((_CE, _CW), (0.75, 0.25)),
}
"""The published objectives by name: single losses, alternations, a coin flip, convex mixtures."""

_MARKS = (0.22, 0.41, 0.57, 0.70, 0.80, 0.87, 0.93, 1.0)  # APGD's checkpoints, the last left out


def _equal(stages: int) -> tuple[float, ...]:
    return tuple((i + 1) / stages for i in range(stages))


STEP_SIZES: dict[str, Callable[[int], tuple[float, Schedule]]] = {
    "constant": lambda stages: (0.25, Constant()),
    "A3": lambda stages: (1.0, Cosine()),
    "GAMA": lambda stages: (2.0, Steps((1.0, 0.1, 0.01), (0.6, 0.85, 1.0))),
    "MD": lambda stages: (2.0, EachStage(Cosine(), _equal(stages))),
    "AutoAttack": lambda stages: (2.0, Steps(tuple(0.5**k for k in range(8)), _MARKS)),
}
"""From the number of stages, the first step in units of eps and its schedule, by name.

constant: eps/4; A3: a cosine from eps to 0; GAMA: 2 eps, a tenth from 0.6 T and a hundredth from
0.85 T on; MD: a cosine from 2 eps to 0 in every stage; AutoAttack: 2 eps, halved at APGD's
checkpoints whatever the progress.
"""


def alternating_pgd(
    threat: AnyThreat,
    losses: str | Objective = "CE-CW",
    steps: int = 100,
    step_size: str = "constant",
    start: Start = Zero(),
) -> Attack:
    """PGD on one loss after another, such as cross-entropy, then margin (Antoniou et al. 2022).

    losses: a name of `LOSSES`, or an objective; step_size: a name of `STEP_SIZES`; start: the
    clean point, as published for a single run; with restarts the authors take Corner(). In other
    norms than Linf the steps are the steepest ones of that norm. Raises UnknownName.
    """
    if isinstance(losses, str) and losses not in LOSSES:
        raise unknown("schedule of losses", losses, LOSSES)
    if step_size not in STEP_SIZES:
        raise unknown("schedule of step sizes", step_size, STEP_SIZES)
    objective = LOSSES[losses] if isinstance(losses, str) else losses
    stages = len(objective.stages) if isinstance(objective, Alternating) else 1
    length, schedule = STEP_SIZES[step_size](stages)
    return Attack(threat, objective, PGD(steps, length, start, schedule))
