"""Square: random search by squares of one colour, no gradients (Andriushchenko et al. 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from torchproof.attack.cases import Point
from torchproof.attack.fab import require_norm
from torchproof.attack.pgd import check_steps
from torchproof.attack.search import Search, State
from torchproof.core import keys
from torchproof.core.errors import InputError
from torchproof.core.norms import Linf, Norm
from torchproof.core.sets import Ball, Set
from torchproof.core.values import expand, overwrite

# The share of pixels is halved after these queries (of the published 10,000, not rescaled, as in
# AutoAttack).
_HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


@dataclass(frozen=True)
class Guess(State):
    """delta: the proposal asked about; best, level: the accepted point and its loss."""

    best: Tensor
    level: Tensor


@dataclass(frozen=True)
class Square(Search):
    """Linf: propose the best point with one square moved to +-eps per channel, keep it when the
    loss rises.

    `queries` counts forwards, the stripes of the start included. Deviation: window and signs are
    drawn per image and windows reach the border; the authors' code draws one for the whole batch
    and never touches the last row.
    """

    queries: int = 5000
    share: float = 0.8

    gradient: ClassVar[bool] = False
    needs: ClassVar[frozenset[str]] = frozenset({"box", "image"})
    norms: ClassVar[frozenset[type[Norm]] | None] = frozenset({Linf})

    def __post_init__(self) -> None:
        check_steps(self.queries)
        if self.queries < 2:
            given = f"queries = {self.queries}"
            raise InputError(given, "at least 2", "one query judges the start, the next a square")

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
        _, channels, _, width = ball.low.shape
        sign = keys.signs(key, 0, (channels, 1, width), 1, ball.low.dtype)
        stripes = torch.where(sign > 0, ball.ceiling, ball.floor)
        level = ball.low.new_full((len(key),), -torch.inf)
        return Guess(stripes, torch.zeros_like(key), stripes.clone(), level)

    def step(self, set: Set, key: Tensor, state: Guess, point: Point) -> Guess:
        ball = require_norm(self, set)
        better = point.loss > state.level
        overwrite(state.best, better.nonzero()[:, 0], state.delta)
        level = torch.where(better, point.loss, state.level)
        proposal = self._propose(ball, key, state.t + 1, state.best)
        return Guess(proposal, state.t + 1, state.best, level)

    def _propose(self, ball: Ball, key: Tensor, t: Tensor, best: Tensor) -> Tensor:
        """The best point with one new square per image."""
        _, channels, height, width = best.shape
        area = self._shares.to(t.device)[t] * (height * width)
        side = area.sqrt().round().clamp(1, min(height, width))
        u = keys.uniform(key, t, (2 + channels,), 2, torch.float32)
        top = (u[:, 0] * (height - side + 1)).floor()[:, None]
        left = (u[:, 1] * (width - side + 1)).floor()[:, None]
        i = torch.arange(height, device=t.device) - top
        j = torch.arange(width, device=t.device) - left
        rows, columns = (i >= 0) & (i < side[:, None]), (j >= 0) & (j < side[:, None])
        window = (rows[:, :, None] & columns[:, None, :])[:, None]
        up = expand(u[:, 2:].reshape(-1), best.flatten(0, 1)).reshape(-1, channels, 1, 1) > 0.5
        return torch.where(window, torch.where(up, ball.ceiling, ball.floor), best)
