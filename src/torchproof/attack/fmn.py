"""Fast minimum-norm: gradient steps inside a ball whose radius tracks the distance to the boundary,
in any norm (Pintor et al. 2021).
"""

from __future__ import annotations

from collections.abc import Callable
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

    eps_k = (1 + gamma_k) eps_{k-1} outside, min((1 - gamma_k) eps_{k-1}, the shortest win) inside,
    for L0 by at least 1; until the first win eps_{k-1} is |d| + |loss| / |g|_dual. alpha and gamma
    fall along half a cosine.

    Deviations: alpha is in units of the estimated distance of the boundary, which fits images and
    networks of all scales (the paper tunes it in input units); coordinates that the box blocks take
    no part in the gradient, and projections are exact on ball and box; for Linf a step is measured
    in Linf; L0 begins with the same estimate as the other norms, and the estimate is exceeded by
    the last gamma, or a linear boundary would be met again and again but never crossed.
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
        ball, d = require_norm(self, set), state.delta
        progress = state.t.to(point.loss.dtype) / self.steps
        grad = _free(ball, d, point.grad)
        radius, shortest = self._radius(ball, state, point, grad, Cosine(*self.gamma)(progress))
        way, stepped = _STEPS[type(ball.norm)]
        stride = Cosine(*self.alpha)(progress) * outlook(way, ball, d, grad, point)
        moved = d + stepped(ball, d, direction(grad, key, state.t), stride)
        reach = expand(ball.norm.reach(radius), moved)
        floor, ceiling = torch.maximum(ball.low, -reach), torch.minimum(ball.high, reach)
        delta = ball.norm.bring(moved, radius, floor, ceiling)
        return Tracked(delta, state.t + 1, radius, shortest)

    def _radius(
        self, ball: Ball, state: Tracked, point: Point, grad: Tensor, gamma: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(P,) eps_k, and the shortest win."""
        least, old, shortest = ball.norm.least, state.radius, state.shortest
        nearer = torch.minimum(shortest, ball.length(state.delta))
        shortest = torch.where(point.won, nearer, shortest)
        guess = outlook(ball.norm, ball, state.delta, grad, point)
        blind = shortest.isinf()
        outside, more = torch.where(blind, guess, old), torch.where(blind, self.gamma[1], gamma)
        grown = torch.maximum(outside * (1 + more), outside + least)
        shrunk = torch.minimum(old * (1 - gamma), old - least).clamp_min(0)
        return torch.where(point.won, torch.minimum(shrunk, shortest), grown), shortest


def _free(ball: Ball, d: Tensor, grad: Any) -> Tensor:
    """The gradient without the coordinates that the box keeps from following it."""
    room = torch.where(grad > 0, ball.high - d, d - ball.low)
    return torch.where(room > 0, grad, 0.0)


def outlook(norm: Norm, ball: Ball, d: Tensor, grad: Tensor, point: Point) -> Tensor:
    """(P,) how far the boundary seems to be: |d|, plus |loss| / |gradient|_dual before it."""
    dual = (grad * norm.steepest(grad)).flatten(1).sum(1)
    farthest = norm.length(torch.maximum(ball.high, -ball.low))  # beyond it lies nothing
    ahead = (point.loss.abs() / dual.clamp_min(torch.finfo(dual.dtype).tiny)).minimum(farthest)
    # without a gradient there is nothing to go by but the unit
    ahead = torch.where(dual > 0, ahead, ball.scale)
    return norm.length(d) + torch.where(point.won, 0.0, ahead)


def _within(ball: Ball, d: Tensor, grad: Tensor, stride: Tensor) -> Tensor:
    """The steepest step of length `stride` that stays in the box."""
    return Ball.of(ball.norm, stride, ball.low - d, ball.high - d).maximiser(grad)


def _straight(ball: Ball, d: Tensor, grad: Tensor, stride: Tensor) -> Tensor:
    """A step along the gradient, also out of the box: the projection of a sparse norm goes by how
    far each coordinate wants to go.
    """
    return L2().steepest(grad).mul_(expand(stride, grad))


# In which norm a step is measured, and how it is taken: steps of length 1 in L1 and L0 would move
# one coordinate at a time.
_STEPS: dict[type[Norm], tuple[Norm, Callable[[Ball, Tensor, Tensor, Tensor], Tensor]]] = {
    Linf: (Linf(), _within),
    L2: (L2(), _within),
    L1: (L2(), _straight),
    L0: (L2(), _straight),
}


def fmn(threat: AnyThreat, steps: int = 100, objective: Objective = Margin()) -> Attack:
    """The nearest adversarial point in any norm, in a ball that shrinks to it (FMN, Pintor et al.
    2021).
    """
    return Attack(threat, objective, FMN(steps))
