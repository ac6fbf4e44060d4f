"""HopSkipJump: the nearest adversarial image from decisions alone (Chen et al. 2020).

Nothing but `point.won` is read: is this picture misclassified? Each example goes through its own
phases, one question a step, so that none waits for another and none fails for another.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import torch
from torch import Tensor

from torchproof.attack.cases import Point
from torchproof.attack.combine import Attack
from torchproof.attack.fab import require_norm
from torchproof.attack.pgd import check_steps
from torchproof.attack.search import Search, State
from torchproof.core import keys
from torchproof.core.errors import InputError
from torchproof.core.norms import L2, Linf, Norm
from torchproof.core.objectives import Margin, Objective
from torchproof.core.sets import Ball, Set
from torchproof.core.threats import AnyThreat
from torchproof.core.values import expand, take

# What an example's open question is about.
START, HALVING, DIRECTION, JUMP = range(4)

T = TypeVar("T")

_WIDE = 0.1  # length of the first directions, as a share of the box's width
_FINEST = 20  # halvings after which float32 no longer tells two images apart
_JUMPS = 16  # halvings of a jump after which its direction is given up


@dataclass(frozen=True)
class Hop(State):
    """phase, count: what is asked, and how often it was, (P,) int64; hops: boundary points so far.

    far: the misclassified end of the line that is halved, (P, ...); low, high: shares of the line
    known to be classified correctly and wrongly, (P,); base: the point on the boundary; wins: wrong
    answers among its directions; signed, plain: sums of those directions with the sign of the
    answer, and without, (P, ...).
    """

    phase: Tensor
    count: Tensor
    hops: Tensor
    wins: Tensor
    low: Tensor
    high: Tensor
    far: Tensor
    base: Tensor
    signed: Tensor
    plain: Tensor


@dataclass(frozen=True)
class HopSkipJump(Search):
    """Halve the line to the boundary, estimate its normal from the signs of `first` sqrt(k)
    answers, jump along it, and again (Chen et al. 2020, algorithm 2).

    `queries`: a hard limit, the last of them a look at the final point; first, most: directions at
    the first and at any boundary point; tries: pictures of noise, of four kinds in turn, that are
    looked at for a first misclassified one; an example for which none is ends there, by itself.

    Deviations: the clean image is asked about first; the line is halved to d^-1.5 of its length for
    both norms (the paper's d^-2 for Linf is finer than float32); a jump that fails 16 halvings is
    given up for a new estimate, where the paper would go on for ever. Directions have the L2 length
    |base|_2 / d: for Linf the paper's |base|_inf / d is lost in float32.
    """

    queries: int = 5000
    first: int = 100
    most: int = 10_000
    tries: int = 200

    gradient: ClassVar[bool] = False
    wanders: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"box", "image"})
    norms: ClassVar[frozenset[type[Norm]] | None] = frozenset({Linf, L2})

    def __post_init__(self) -> None:
        for name in ("queries", "first", "most", "tries"):
            check_steps(getattr(self, name), name)
        if self.queries < 2:
            given = f"queries = {self.queries}"
            raise InputError(given, "at least 2", "a few thousand are usual")

    @property
    def steps(self) -> int:
        return self.queries - 1

    def init(self, set: Set, key: Tensor) -> Hop:
        ball = require_norm(self, set)
        whole = [torch.zeros_like(key) for _ in range(5)]
        share = [ball.low.new_zeros(len(key)) for _ in range(2)]
        return Hop(ball.zero(), *whole, *share, *(ball.zero() for _ in range(4)))

    def step(self, set: Set, key: Tensor, state: Hop, point: Point) -> Hop:
        ball, phase = require_norm(self, set), state.phase.clone()
        state.t.add_(1)
        state.count.add_(1)
        judge = (self._started, self._halved, self._looked, self._jumped)
        for rows, judged in _each(phase, judge):
            judged(ball, state, rows, point.won[rows])
        ask = (self._noise, self._middle, self._direction, self._jump)
        for rows, asked in _each(state.phase, ask):
            state.delta[rows] = asked(take(ball, rows), key[rows], state, rows)
        return state

    # ---- what an answer changes

    def _started(self, ball: Ball, state: Hop, rows: Tensor, won: Tensor) -> None:
        """The clean image, or noise, was asked about."""
        clean, spent = won & (state.count[rows] == 1), ~won & (state.count[rows] > self.tries)
        state.t[rows[clean | spent]] = self.steps  # nothing to search for, or nowhere to begin
        self._draw_line(state, rows[won & ~clean])

    def _halved(self, ball: Ball, state: Hop, rows: Tensor, won: Tensor) -> None:
        """The middle of the line was asked about."""
        low, high = state.low[rows], state.high[rows]
        middle = (low + high) / 2
        state.low[rows] = torch.where(won, low, middle)
        state.high[rows] = torch.where(won, middle, high)
        fine = min(math.ceil(1.5 * math.log2(max(_size(ball), 2))), _FINEST)
        ready = rows[state.count[rows] >= fine]
        if len(ready):
            state.base[ready] = _share(take(ball, ready), state.far[ready], state.high[ready])
            self._look(state, ready)

    def _looked(self, ball: Ball, state: Hop, rows: Tensor, won: Tensor) -> None:
        """A direction was asked about, as it is after the box has cut it."""
        went = state.delta[rows] - state.base[rows]
        state.wins[rows] += won
        state.signed[rows] += torch.where(expand(won, went), went, -went)
        state.plain[rows] += went
        enough = (self.first * state.hops[rows].double().sqrt()).floor().clamp_max(self.most)
        over = rows[state.count[rows] >= enough]
        if len(over):
            state.signed[over] = ball.norm.steepest(_normal(state, over))
            self._to(JUMP, state, over)

    def _jumped(self, ball: Ball, state: Hop, rows: Tensor, won: Tensor) -> None:
        """A point along the normal was asked about."""
        self._draw_line(state, rows[won])
        self._look(state, rows[~won & (state.count[rows] > _JUMPS)])

    def _draw_line(self, state: Hop, rows: Tensor) -> None:
        """The misclassified point just asked about becomes the far end of a line to the image."""
        state.far[rows] = state.delta[rows]
        state.low[rows], state.high[rows] = 0.0, 1.0
        self._to(HALVING, state, rows)

    def _look(self, state: Hop, rows: Tensor) -> None:
        """Begins to look around the base."""
        state.hops[rows] += 1
        state.wins[rows] = 0
        state.signed[rows], state.plain[rows] = 0.0, 0.0
        self._to(DIRECTION, state, rows)

    def _to(self, phase: int, state: Hop, rows: Tensor) -> None:
        state.phase[rows], state.count[rows] = phase, 0

    # ---- what is asked next, for the rows of one phase; `ball` and `key` are those of the rows

    def _noise(self, ball: Ball, key: Tensor, state: Hop, rows: Tensor) -> Tensor:
        return _noise(ball, key, state.count[rows])

    def _middle(self, ball: Ball, key: Tensor, state: Hop, rows: Tensor) -> Tensor:
        return _share(ball, state.far[rows], (state.low[rows] + state.high[rows]) / 2)

    def _direction(self, ball: Ball, key: Tensor, state: Hop, rows: Tensor) -> Tensor:
        base = state.base[rows]
        u = L2().steepest(ball.norm.random(keys.mix(key, state.t[rows]), base))
        width = _WIDE * (ball.high - ball.low).flatten(1).amax(1)
        length = torch.where(state.hops[rows] == 1, width, L2().length(base) / _size(ball))
        return torch.clamp(torch.addcmul(base, u, expand(length, u)), ball.low, ball.high)

    def _jump(self, ball: Ball, key: Tensor, state: Hop, rows: Tensor) -> Tensor:
        base, count = state.base[rows], state.count[rows]
        length = ball.norm.length(base) / state.hops[rows].sqrt() * 0.5**count
        far = torch.addcmul(base, state.signed[rows], expand(length, base))
        return torch.clamp(far, ball.low, ball.high)


def _each(phase: Tensor, table: Sequence[T]) -> Iterator[tuple[Tensor, T]]:
    """The rows that are in each phase, with the phase's entry; phases without rows are left out."""
    for number, entry in enumerate(table):
        rows = (phase == number).nonzero()[:, 0]
        if len(rows):
            yield rows, entry


def _normal(state: Hop, rows: Tensor) -> Tensor:
    """The boundary's direction: the mean answer taken off each, unless all agree (eq. 16)."""
    wins, count = state.wins[rows], state.count[rows]
    mean = (2 * wins - count) / count
    mean = torch.where(mean.abs() == 1, 0.0, mean).to(state.plain)
    return state.signed[rows] - expand(mean, state.plain) * state.plain[rows]


def _size(ball: Ball) -> int:
    return ball.low[0].numel()


def _share(ball: Ball, far: Tensor, share: Tensor) -> Tensor:
    """The nearest points to `far` (R, ...) whose length is `share` (R,) of far's."""
    return Ball.of(ball.norm, ball.norm.length(far) * share, ball.low, ball.high).project(far)


def _noise(ball: Ball, key: Tensor, attempt: Tensor) -> Tensor:
    """Perturbations that replace the image by noise: even in every pixel, one colour, extremes
    only, coarse patches, in turn.
    """
    u = keys.uniform(key, attempt, tuple(ball.low.shape[1:]), 0, ball.low.dtype)
    height, width = (torch.arange(n, device=u.device) // 4 for n in u.shape[2:])
    kinds = [u, u[:, :, :1, :1].expand_as(u), u.round(), u[:, :, height][..., width]]
    kind = torch.stack(kinds)[(attempt - 1) % 4, torch.arange(len(u), device=u.device)]
    return ball.low + kind * (ball.high - ball.low)


def hop_skip_jump(
    threat: AnyThreat,
    queries: int = 5000,
    first: int = 100,
    tries: int = 200,
    objective: Objective = Margin(),
) -> Attack:
    """Decision-based: along the boundary towards the image, from predicted classes alone (Chen et
    al. 2020).
    """
    return Attack(threat, objective, HopSkipJump(queries, first, tries=tries))
