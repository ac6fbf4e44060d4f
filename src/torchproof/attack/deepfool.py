"""DeepFool: step by step to the plane of one linearised class boundary, until the class changes
(Moosavi-Dezfooli et al. 2016).

The paper takes the nearest of all linearised boundaries at every step, which needs a gradient per
class. Here each class is a job of its own (`EveryTarget`), one gradient per step; `MinimumNorm`
keeps the nearest result over the classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from torchproof.attack.cases import Point
from torchproof.attack.combine import Attack, EveryTarget
from torchproof.attack.fab import MOVES, require_norm, to_plane
from torchproof.attack.pgd import check_steps
from torchproof.attack.search import Search, State
from torchproof.core.errors import InputError
from torchproof.core.norms import Norm
from torchproof.core.objectives import TargetedMargin
from torchproof.core.sets import Set
from torchproof.core.threats import AnyThreat


@dataclass(frozen=True)
class DeepFool(Search):
    """d <- d + (1 + overshoot) e, e the move of least norm from d to the plane of the linearised
    boundary (eq. 7, Algorithm 2), until the class changes or `steps` are done.

    Deviations: moves are exact in the box, where the paper clips; the last question, which asks for
    no gradient, is about the point with a tenth of the overshoot, which may win as well. Norms:
    those of `fab.MOVES`, Linf, L2 and L1.
    """

    steps: int = 50
    overshoot: float = 0.02

    wanders: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"box", "boundary"})
    norms: ClassVar[frozenset[type[Norm]] | None] = frozenset(MOVES)

    def __post_init__(self) -> None:
        check_steps(self.steps)
        if not 0 <= self.overshoot < 1:
            given = f"overshoot = {self.overshoot!r}"
            raise InputError(given, "a number in [0, 1)", "the paper's is 0.02")

    @property
    def random(self) -> bool:
        return False

    def init(self, set: Set, key: Tensor) -> State:
        return State(require_norm(self, set).zero(), key.new_zeros(len(key)))

    def step(self, set: Set, key: Tensor, state: State, point: Point) -> State:
        """A row that has won is through; what is left to it is its last question."""
        ball, grad = require_norm(self, set), point.grad
        d, w, low, high = (_flat(t) for t in (state.delta, grad, ball.low, ball.high))
        b = (w * d).sum(1) - point.loss
        onward = d + (1 + self.overshoot) * to_plane(ball.norm, d, w, b, low, high)
        drawn = d / (1 + 0.9 * self.overshoot)
        nxt = torch.where(point.won[:, None], drawn, torch.clamp(onward, low, high))
        t = torch.where(point.won, self.steps, state.t + 1)
        return State(nxt.reshape(state.delta.shape), t)


def _flat(t: Any) -> Tensor:
    rows: Tensor = t.flatten(1)
    return rows


def deepfool(threat: AnyThreat, steps: int = 50, targets: int = 4) -> Attack:
    """Straight to each likely class's linearised boundary, until the class changes
    (Moosavi-Dezfooli et al. 2016).

    Their code tries ten classes; the nearest was hardly ever beyond the fourth.
    """
    return EveryTarget(Attack(threat, TargetedMargin(), DeepFool(steps)), targets)
