"""Fast minimum-norm: gradient steps inside a ball whose radius tracks the distance to the boundary,
in any norm (Pintor et al. 2021).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from torchproof.attack.cases import Point
from torchproof.attack.combine import Attack
from torchproof.attack.ddn import direction
from torchproof.attack.fab import require_norm
from torchproof.attack.pgd import check_steps
from torchproof.attack.search import Search, State
from torchproof.attack.starts import Start, Zero
from torchproof.core.errors import InputError
from torchproof.core.norms import L0, L1, L2, Linf, Norm
from torchproof.core.objectives import Margin, Objective
from torchproof.core.schedules import Cosine
from torchproof.core.sets import Ball, Set
from torchproof.core.threats import AnyThreat
from torchproof.core.values import expand

# In which norm a step is measured: steps of L1 and L0 would move one coordinate at a time.
_WAY: dict[type[Norm], Norm] = {Linf: Linf(), L2: L2(), L1: L2(), L0: L2()}


@dataclass(frozen=True)
class Tracked(State):
    """radius (P,): of the ball that holds the next point; shortest (P,): of all wins, inf for
    none.
    """

    radius: Tensor
    shortest: Tensor


@dataclass(frozen=True)
class FMN(Search):
    """d <- project(d + alpha_k g / |g|_2) on the ball of radius eps_k and the box (Algorithm 1).

    eps_k = |d| + |loss| / |g|_dual until the first win; then (1 + gamma_k) eps_{k-1} outside and
    min((1 - gamma_k) eps_{k-1}, the shortest win) inside, for L0 by at least 1. alpha and gamma
    fall along half a cosine.

    Deviations: alpha is in units of the estimated distance of the boundary, which fits images and
    networks of all scales (the paper tunes it in input units); steps and projections are exact in
    the box, so that saturated pixels take no share of them; for Linf a step is measured in Linf;
    L0 begins with the same estimate as the other norms.
    """

    steps: int = 100
    start: Start = field(default_factory=Zero)
    alpha: tuple[float, float] = (2.0, 0.02)
    gamma: tuple[float, float] = (0.05, 0.001)

    wanders: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"box", "boundary"})
    norms: ClassVar[frozenset[type[Norm]] | None] = frozenset({L0, L1, L2, Linf})

    def __post_init__(self) -> None:
        check_steps(self.steps)
        if not (self.alpha[0] >= self.alpha[1] > 0 and 1 > self.gamma[0] >= self.gamma[1] > 0):
            given = f"alpha = {self.alpha!r}, gamma = {self.gamma!r}"
            raise InputError(given, "(from, to), falling and > 0, gamma below 1", "see FMN's own")

    @property
    def random(self) -> bool:
        return self.start.random

    def init(self, set: Set, key: Tensor) -> Tracked:
        ball = require_norm(self, set)
        far = torch.full_like(ball.radius, torch.inf)
        return Tracked(self.start(set, key), key.new_zeros(len(key)), far, far.clone())

    def step(self, set: Set, key: Tensor, state: Tracked, point: Point) -> Tracked:
        ball = require_norm(self, set)
        progress = state.t.to(point.loss.dtype) / self.steps
        length = ball.length(state.delta)
        shortest = torch.where(point.won, torch.minimum(state.shortest, length), state.shortest)
        radius = self._radius(ball, state, point, length, shortest, Cosine(*self.gamma)(progress))
        grad, way = direction(point.grad, key, state.t), _WAY[type(ball.norm)]
        stride = Cosine(*self.alpha)(progress) * outlook(way, state.delta, point)
        room = Ball.of(way, stride, ball.low - state.delta, ball.high - state.delta)
        moved = state.delta + room.maximiser(grad)
        reach = expand(ball.norm.reach(radius), moved)
        floor, ceiling = torch.maximum(ball.low, -reach), torch.minimum(ball.high, reach)
        delta = ball.norm.bring(moved, radius, floor, ceiling)
        return Tracked(delta, state.t + 1, radius, shortest)

    def _radius(
        self, ball: Ball, state: Tracked, point: Point, length: Tensor, shortest: Tensor,
        gamma: Tensor,
    ) -> Tensor:  # fmt: skip
        """(P,) eps_k."""
        least, old = ball.norm.least, state.radius
        grown = torch.maximum(old * (1 + gamma), old + least)
        shrunk = torch.minimum(old * (1 - gamma), old - least).clamp_min(0)
        guess = torch.maximum(outlook(ball.norm, state.delta, point), length + least)
        outside = torch.where(shortest.isinf(), guess, grown)
        return torch.where(point.won, torch.minimum(shrunk, shortest), outside)


def outlook(norm: Norm, delta: Tensor, point: Point) -> Tensor:
    """(P,) how far the boundary seems to be: |delta|, plus |loss| / |gradient|_dual before it."""
    grad: Any = point.grad
    dual = (grad * norm.steepest(grad)).flatten(1).sum(1)
    ahead = point.loss.abs() / dual.clamp_min(torch.finfo(dual.dtype).tiny)
    return norm.length(delta) + torch.where(point.won, 0.0, ahead)


def fmn(threat: AnyThreat, steps: int = 100, objective: Objective = Margin()) -> Attack:
    """The nearest adversarial point in any norm, in a ball that shrinks to it (FMN, Pintor et al.
    2021).
    """
    return Attack(threat, objective, FMN(steps))
