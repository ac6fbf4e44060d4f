"""Variance tuning, "VMI": each gradient corrected by how gradients varied around the last point, so
that the attack depends less on its network (Wang and He 2021).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from torchproof.attack.cases import Point
from torchproof.attack.combine import Attack
from torchproof.attack.pgd import MomentumPGD, check_steps, even
from torchproof.attack.search import Search
from torchproof.attack.starts import Start, Zero
from torchproof.core import keys
from torchproof.core.errors import InputError
from torchproof.core.objectives import CrossEntropy, Objective
from torchproof.core.sets import Ball, Set
from torchproof.core.threats import AnyThreat
from torchproof.core.values import expand, put, take


@dataclass(frozen=True)
class Tuned:
    """delta: where to ask next; inner: the tuned search's state; anchor: the last point it asked
    about, slope: the gradient there; around: the sum of its neighbours' gradients so far; variance:
    v, from the neighbours of the point before.
    """

    delta: Tensor
    t: Tensor
    inner: Any
    anchor: Tensor
    slope: Tensor
    around: Tensor
    variance: Tensor


@dataclass(frozen=True)
class VarianceTuning(Search):
    """`search` with gradients g + v, v being the mean of `samples` gradients around the last point
    less the one at it (Wang and He 2021, eq. 6-7).

    Neighbours are drawn evenly from the ball of `reach` times the radius, the box left aside; they
    never count as results. A step costs samples + 1 questions, the last one a single question.
    Around a `NesterovPGD` the neighbours are those of the point looked ahead at.
    """

    search: Search
    samples: int = 20
    reach: float = 1.5

    wanders: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_steps(self.samples, "samples")
        if not 0 < self.reach < math.inf or not self.search.gradient:
            raise InputError(
                f"reach = {self.reach!r} for {type(self.search).__name__}",
                "a number > 0, in units of eps, and a search that reads gradients",
                "the paper tunes MomentumPGD, with reach = 1.5",
            )

    # What else a search is asked about itself, the tuned one answers.
    needs = property(lambda self: self.search.needs | {"image", "bounded"})
    norms = property(lambda self: self.search.norms)

    @property
    def steps(self) -> int:
        return (self.search.steps - 1) * (self.samples + 1) + 1

    def init(self, set: Set, key: Tensor) -> Tuned:
        inner = self.search.init(set, key)
        none = [torch.zeros_like(inner.delta) for _ in range(4)]
        return Tuned(inner.delta.clone(), key.new_zeros(len(key)), inner, *none)

    def step(self, set: Set, key: Tensor, state: Tuned, point: Point) -> Tuned:
        assert isinstance(set, Ball), "perturbations of images lie in balls"
        grad: Any = point.grad
        turn = self.samples + 1
        tuned = state.t % turn == 0  # the answer is about the search's own point
        inner = self._advanced(set, key, state, point, tuned)
        at = expand(tuned, grad)
        anchor = torch.where(at, state.delta, state.anchor)
        slope = torch.where(at, grad, state.slope)
        around = torch.where(at, 0.0, state.around + grad)
        t = state.t + 1
        through = expand(t % turn == 0, grad)
        variance = torch.where(through, around / self.samples - slope, state.variance)
        over = inner.t >= self.search.steps
        near = anchor + self._offset(set, keys.mix(key, t, "variance tuning"))
        ask = torch.where(through | expand(over, grad), inner.delta, near)
        return Tuned(ask, torch.where(over, self.steps, t), inner, anchor, slope, around, variance)

    def _advanced(self, set: Ball, key: Tensor, state: Tuned, point: Point, tuned: Tensor) -> Any:
        """The inner state, one step on in the rows whose own point was asked about."""
        rows = tuned.nonzero()[:, 0]
        if not len(rows):
            return state.inner
        grad: Any = point.grad
        part = Point(
            point.loss[rows], point.score[rows], point.won[rows],
            grad[rows] + state.variance[rows], point.cost,
        )  # fmt: skip
        if len(rows) == len(tuned):
            return self.search.step(set, key, state.inner, part)
        stepped = self.search.step(take(set, rows), key[rows], take(state.inner, rows), part)
        put(state.inner, rows, stepped)
        return state.inner

    def _offset(self, ball: Ball, key: Tensor) -> Tensor:
        """A neighbour's distance to the anchor, nothing where no change is allowed."""
        offset = ball.norm.sample(key, self.reach * ball.scale, ball.low)
        return offset * (ball.low < ball.high)


def vmi_fgsm(
    threat: AnyThreat,
    steps: int = 10,
    length: float | None = None,
    decay: float = 1.0,
    samples: int = 20,
    reach: float = 1.5,
    objective: Objective = CrossEntropy(),
    start: Start = Zero(),
) -> Attack:
    """PGD with momentum and variance tuning, for transfer between models (Wang and He 2021)."""
    search = MomentumPGD(steps, even(steps, length), start, decay=decay)
    return Attack(threat, objective, VarianceTuning(search, samples, reach))
