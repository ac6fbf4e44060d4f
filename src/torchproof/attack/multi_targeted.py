"""MultiTargeted (Gowal, Uesato, Qin, Huang, Mann and Kohli 2019, arXiv 1910.09338): the logit
difference to every wrong class in turn.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from torchproof.attack.adam import Adam, Moments
from torchproof.attack.cases import Point
from torchproof.attack.combine import Attack
from torchproof.attack.starts import Start, Uniform
from torchproof.core.objectives import TargetedMargin
from torchproof.core.schedules import Schedule, Steps
from torchproof.core.sets import Ball, Set
from torchproof.core.threats import AnyThreat


@dataclass(frozen=True)
class DecayingAdam(Adam):
    """Adam whose `length` is multiplied by `schedule` at each step's progress."""

    schedule: Schedule = Steps((1.0, 0.1, 0.01), (0.5, 0.75, 1.0))

    def step(self, set: Set, key: Tensor, state: Moments, point: Point) -> Moments:
        assert isinstance(set, Ball), "perturbations of images lie in balls"
        factor: Any = self.schedule(state.t.to(set.scale.dtype) / self.steps)
        return super().step(replace(set, scale=set.scale * factor), key, state, point)


def multi_targeted(
    threat: AnyThreat,
    steps: int = 100,
    targets: int = 9,
    restarts: int = 1,
    length: float = 1 / 3,
    start: Start = Uniform(),
) -> Attack:
    """Adam on z_t - z_y for each likely wrong class t, any misclassification wins (Gowal et al.
    2019).

    length: of a step in units of eps, 0.1 in input units where eps is 0.3; a tenth of it from half
    the steps on, a hundredth from three quarters on; restarts: per class. The times at which steps
    shrink, and that they are in proportion to eps, are ours.
    """
    search = DecayingAdam(steps, length, start)
    return Attack(threat, TargetedMargin(), search, restarts, targets)
