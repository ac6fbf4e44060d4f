"""Carlini and Wagner's L2 attack: length against margin, weighed by a constant that is searched for
(Carlini and Wagner 2017).

The binary search of the constant is part of the search's state, so that every example has its own,
and rows that gave up a round early start their next one while others still climb.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from torchproof.attack.cases import Point
from torchproof.attack.combine import Attack
from torchproof.attack.fab import require_norm
from torchproof.attack.pgd import check_steps
from torchproof.attack.search import Search, State
from torchproof.core.errors import InputError
from torchproof.core.norms import L2, Norm
from torchproof.core.objectives import Margin, Objective
from torchproof.core.sets import Ball, Set
from torchproof.core.threats import AnyThreat
from torchproof.core.values import expand, where

_EDGE = 0.999999  # how far into the box the change of variables starts, as in the released code
_BETA = (0.9, 0.999)  # Adam's decay rates


@dataclass(frozen=True)
class Adam:
    """What Adam keeps for each coordinate: the running means of gradients and of their squares."""

    mean: Tensor
    square: Tensor


@dataclass(frozen=True)
class Constant:
    """The weight of the margin, (P,): its value, the largest that failed, the smallest that won;
    `won` tells whether it has in this round, `cost` what the last check of progress saw.
    """

    value: Tensor
    failed: Tensor
    sufficed: Tensor
    won: Tensor
    cost: Tensor


@dataclass(frozen=True)
class Weighed(State):
    """w (P, ...): the perturbed input in the variables of which every value lies in the box."""

    w: Tensor
    adam: Adam
    constant: Constant


@dataclass(frozen=True)
class CarliniWagner(Search):
    """Minimises |d|^2 + c max(-margin, -confidence) over w, x + d = (tanh w + 1) / 2 in the box, by
    Adam (section VI-A); `rounds` values of c per example by binary search, from `constant` up by
    tens until one wins.

    A round takes `steps_per_round` gradient steps. Deviation from `abort_early` of the released
    code: a round in which a tenth of them brought no progress is given up only while nothing has
    won in it, which costs no length. `rate`: Adam's step in w. Norm: L2.
    """

    rounds: int = 9
    steps_per_round: int = 1000
    rate: float = 0.01
    constant: float = 1e-3
    confidence: float = 0.0

    wanders: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"box", "boundary"})
    norms: ClassVar[frozenset[type[Norm]] | None] = frozenset({L2})

    def __post_init__(self) -> None:
        check_steps(self.rounds, "rounds")
        check_steps(self.steps_per_round, "steps_per_round")
        if not (self.rate > 0 and self.constant > 0 and self.confidence >= 0):
            given = (
                f"rate = {self.rate}, constant = {self.constant}, confidence = {self.confidence}"
            )
            raise InputError(given, "rate and constant > 0, confidence >= 0", "see the defaults")

    @property
    def steps(self) -> int:
        return self.rounds * self.steps_per_round

    @property
    def random(self) -> bool:
        return False

    def init(self, set: Set, key: Tensor) -> Weighed:
        ball = require_norm(self, set)
        if not bool((ball.high - ball.low).isfinite().all()):
            remedy = "pass a threat with finite low and high"
            raise InputError("Carlini and Wagner's attack without a box", "a finite box", remedy)
        value = torch.full_like(ball.radius, self.constant)
        none, zero = torch.full_like(value, torch.inf), torch.zeros_like(value)
        constant = Constant(value, zero, none, zero.bool(), none.clone())
        w = _to_w(ball)
        adam = Adam(torch.zeros_like(w), torch.zeros_like(w))
        return Weighed(_to_delta(ball, w), key.new_zeros(len(key)), w, adam, constant)

    def step(self, set: Set, key: Tensor, state: Weighed, point: Point) -> Weighed:
        ball, c = require_norm(self, set), state.constant
        c = replace(c, won=c.won | point.won)
        grad: Any = point.grad
        pull = (point.loss < self.confidence) * c.value
        uphill = _slope(ball, state.delta) * (expand(pull, grad) * grad - 2 * state.delta)
        number = state.t % self.steps_per_round
        adam, way = _adam(state.adam, uphill, number + 1)
        w = state.w + self.rate * way
        c, over = self._judged(ball, state, point, c, number)
        t = torch.where(over, state.t + self.steps_per_round - number, state.t + 1)
        if bool(over.any()):
            w = where(over, _to_w(ball), w)
            adam = where(over, Adam(torch.zeros_like(w), torch.zeros_like(w)), adam)
            c = where(over, _next(c), c)
        return Weighed(_to_delta(ball, w), t, w, adam, c)

    def _judged(
        self, ball: Ball, state: Weighed, point: Point, c: Constant, number: Tensor
    ) -> tuple[Constant, Tensor]:
        """The constant with the progress noted, and (P,) whether a round is over with this step."""
        miss = (-point.loss).clamp_min(-self.confidence)
        cost = ball.length(state.delta).square() + c.value * miss
        looked = number % max(self.steps_per_round // 10, 1) == 0
        stuck = looked & ~c.won & (cost > 0.9999 * c.cost)
        c = replace(c, cost=torch.where(looked, cost, c.cost))
        return c, stuck | (number == self.steps_per_round - 1)


def _next(c: Constant) -> Constant:
    """The constant of the next round: halfway between failure and success, or ten times as large
    while nothing has won.
    """
    failed = torch.where(c.won, c.failed, torch.maximum(c.failed, c.value))
    sufficed = torch.where(c.won, torch.minimum(c.sufficed, c.value), c.sufficed)
    value = torch.where(sufficed.isinf(), c.value * 10, (failed + sufficed) / 2)
    return Constant(value, failed, sufficed, c.won & False, torch.full_like(c.cost, torch.inf))


def _adam(adam: Adam, uphill: Tensor, number: Tensor) -> tuple[Adam, Tensor]:
    """Adam's memory after the `number`-th (P,) gradient, and the direction it gives (Kingma and Ba
    2015).
    """
    mean = _BETA[0] * adam.mean + (1 - _BETA[0]) * uphill
    square = _BETA[1] * adam.square + (1 - _BETA[1]) * uphill.square()
    rise, spread = (expand(1 - beta ** number.to(mean.dtype), mean) for beta in _BETA)
    return Adam(mean, square), mean / rise / ((square / spread).sqrt() + 1e-8)


def _halves(ball: Ball) -> tuple[Tensor, Tensor]:
    """Centre and half width of the box, seen from the original."""
    return (ball.low + ball.high) / 2, (ball.high - ball.low) / 2


def _to_w(ball: Ball) -> Tensor:
    """w of the unperturbed input; 0 where the box is closed."""
    centre, half = _halves(ball)
    inner = torch.where(half > 0, -centre / half.clamp_min(torch.finfo(half.dtype).tiny), 0.0)
    return torch.atanh(inner.clamp(-1, 1) * _EDGE)


def _to_delta(ball: Ball, w: Tensor) -> Tensor:
    centre, half = _halves(ball)
    return torch.clamp(centre + half * torch.tanh(w), ball.low, ball.high)


def _slope(ball: Ball, delta: Tensor) -> Tensor:
    """How fast the input moves with w: half (1 - tanh(w)^2), written in terms of where it is."""
    half = _halves(ball)[1].clamp_min(torch.finfo(delta.dtype).tiny)
    return (delta - ball.low) * (ball.high - delta) / half


def cw(threat: AnyThreat, rounds: int = 9, steps_per_round: int = 1000,
       objective: Objective = Margin()) -> Attack:  # fmt: skip
    """The shortest L2 perturbation, length weighed against margin (Carlini and Wagner 2017)."""
    return Attack(threat, objective, CarliniWagner(rounds, steps_per_round))
