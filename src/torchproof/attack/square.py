"""Square: random search by changes in square windows, no gradients (Andriushchenko et al. 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from torchproof.attack.cases import Point
from torchproof.attack.fab import require_norm
from torchproof.attack.search import Search, State
from torchproof.attack.square_bumps import Bumps
from torchproof.attack.square_linf import Stripes
from torchproof.core.errors import InputError
from torchproof.core.norms import L1, L2, Linf, Norm
from torchproof.core.sets import Ball, Set
from torchproof.core.values import overwrite

# The share of pixels is halved after these queries (of the published 10,000, not rescaled, as in
# AutoAttack).
_HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


class Proposal(Protocol):
    """What Square tries in the balls of one norm; images (P, C, H, W), everything drawn per
    image.
    """

    def start(self, ball: Ball, key: Tensor) -> Tensor:
        """The first point."""
        ...

    def propose(self, ball: Ball, key: Tensor, t: Tensor, best: Tensor, area: Tensor) -> Tensor:
        """A change of `best` in windows of about `area` (P,) pixels, for step t (P,)."""
        ...


PROPOSALS: dict[type[Norm], Proposal] = {
    Linf: Stripes(),
    L2: Bumps(power=2, decay=2, surplus=1 - 1e-6),
    L1: Bumps(power=1, decay=4, surplus=3.0),
}


@dataclass(frozen=True)
class Guess(State):
    """delta: the proposal asked about; best, level: the accepted point and its loss."""

    best: Tensor
    level: Tensor


@dataclass(frozen=True)
class Square(Search):
    """Proposes the best point with a change in one or two windows, which shrink with time; keeps it
    when the loss rises. What a change is, `PROPOSALS` says for each norm.

    `queries` counts forwards, that of the start included; `share` is the first window's share of
    the pixels. Deviation: windows and signs are drawn per image and windows reach the border; the
    authors' code draws one for the whole batch and never touches the last row.
    """

    queries: int = 5000
    share: float = 0.8

    gradient: ClassVar[bool] = False
    needs: ClassVar[frozenset[str]] = frozenset({"bounded", "box", "image"})
    norms: ClassVar[frozenset[type[Norm]] | None] = frozenset(PROPOSALS)

    def __post_init__(self) -> None:
        whole = isinstance(self.queries, int) and not isinstance(self.queries, bool)
        if not whole or self.queries < 2:
            given, remedy = f"queries = {self.queries!r}", "one judges the start, the next a square"
            raise InputError(given, "a whole number of queries >= 2", remedy)

    @property
    def steps(self) -> int:
        return self.queries - 1

    @cached_property
    def _shares(self) -> Tensor:
        """(queries + 1,) share of pixels that a square covers at each step."""
        t = torch.arange(self.queries + 1)
        marks = torch.tensor(_HALVED_AFTER)
        return self.share * 0.5 ** (t[:, None] > marks).sum(1)

    def init(self, set: Set, key: Tensor) -> Guess:
        ball = require_norm(self, set)
        start = PROPOSALS[type(ball.norm)].start(ball, key)
        level = ball.low.new_full((len(key),), -torch.inf)
        return Guess(start, torch.zeros_like(key), start.clone(), level)

    def step(self, set: Set, key: Tensor, state: Guess, point: Point) -> Guess:
        ball = require_norm(self, set)
        better = point.loss > state.level
        overwrite(state.best, better.nonzero()[:, 0], state.delta)
        level = torch.where(better, point.loss, state.level)
        t, best = state.t + 1, state.best
        area = self._shares.to(t.device)[t] * (best.shape[2] * best.shape[3])
        proposal = PROPOSALS[type(ball.norm)].propose(ball, key, t, best, area)
        return Guess(proposal, t, best, level)
