"""Gradients from answers alone: NES (Ilyas et al. 2018) and SPSA (Uesato et al. 2018).

Both are oracle wrappers: the oracle inside is only ever asked for values, and any gradient search
runs on what they estimate from them.
"""

from __future__ import annotations

import itertools
import operator
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from torchproof.attack.adam import Adam
from torchproof.attack.cases import Cases, Point
from torchproof.attack.combine import Attack
from torchproof.attack.oracle import Oracle
from torchproof.attack.pgd import MomentumPGD
from torchproof.attack.starts import Start, Zero
from torchproof.core import keys
from torchproof.core.errors import InputError
from torchproof.core.objectives import CrossEntropy, Margin, Objective
from torchproof.core.threats import AnyThreat
from torchproof.core.values import expand, take, tree

Draw = Callable[[Tensor, Tensor, tuple[int, ...], int, torch.dtype], Tensor]

ROOM = 64  # problems per model call: few live examples are asked about at several points at once


@dataclass(frozen=True)
class Differences(ABC):
    """mean over `pairs` directions u of (loss(d + sigma u) - loss(d - sigma u)) / (2 sigma) u.

    Directions have independent coordinates of mean 0 and variance 1, so that a linear loss is
    estimated without bias. They are keyed by the problem and its progress: neither batch size nor
    order changes them. sigma: in input units; room: problems per model call, at most, where several
    directions are asked about at once (1 at shared sites). A point asked for a gradient costs
    2 pairs + 1 questions, one without costs one.
    """

    inner: Oracle
    pairs: int
    sigma: float
    room: int = 1

    estimates: ClassVar[bool] = True  # its gradients are no gradients of the model

    def __post_init__(self) -> None:
        if self.pairs < 1 or self.room < 1 or not self.sigma > 0:
            raise InputError(
                f"pairs = {self.pairs}, sigma = {self.sigma}, room = {self.room}",
                "pairs >= 1, sigma > 0 and room >= 1",
                "the papers' sigma is 0.001 (NES) and 0.01 (SPSA)",
            )

    @abstractmethod
    def __call__(self, cases: Cases, delta: Any, gradient: bool, progress: Tensor) -> Point: ...

    def _answer(
        self, draw: Draw, cases: Cases, delta: Any, gradient: bool, progress: Tensor
    ) -> Point:
        """The answer about `delta`, its gradient from directions that `draw` makes."""
        here = self.inner(cases, delta, False, progress)
        if not gradient:
            return here
        step = progress.double().view(torch.int64)  # its bits: each step has another number
        key = keys.mix(cases.key, step, type(self).__name__)
        total: Any = tree(torch.zeros_like, delta)
        many = max(1, self.room // len(key))
        for first in range(0, self.pairs, many):
            index = torch.arange(first, min(first + many, self.pairs), device=key.device)
            rows = torch.arange(len(key), device=key.device).repeat(len(index))
            u = _directions(draw, key[rows], index.repeat_interleave(len(key)), delta)
            slope = self._slopes(cases, delta, progress, u, rows)
            for number in range(len(index)):  # one by one: sums do not depend on the grouping
                part = slice(number * len(key), (number + 1) * len(key))
                total = _added(total, slope[part], tree(operator.itemgetter(part), u))
        grad = tree(lambda t: t / self.pairs, total)
        forward, backward = (cost * (2 * self.pairs + 1) for cost in here.cost)
        return here._replace(grad=grad, cost=(forward, backward))

    def _slopes(self, cases: Cases, delta: Any, progress: Tensor, u: Any, rows: Tensor) -> Tensor:
        """The rise of the loss along each direction, per unit length, from two calls."""
        if len(rows) > len(cases.key):
            cases, delta, progress = take(cases, rows), take(delta, rows), progress[rows]
        up, down = (
            self.inner(cases, _moved(delta, u, by), False, progress).loss
            for by in (self.sigma, -self.sigma)
        )
        return (up - down) / (2 * self.sigma)


def _directions(draw: Draw, key: Tensor, index: Tensor, like: Any) -> Any:
    """One direction per row of `key`; each leaf has numbers of its own."""
    streams = itertools.count()

    def leaf(d: Tensor) -> Tensor:
        return draw(key, index, tuple(d.shape[1:]), next(streams), d.dtype)

    return tree(leaf, like)


def _moved(delta: Any, u: Any, by: float) -> Any:
    return tree(lambda d, v: d + by * v, delta, u)


def _added(total: Any, slope: Tensor, u: Any) -> Any:
    return tree(lambda t, v: t.add_(expand(slope.to(v.dtype), v) * v), total, u)


@dataclass(frozen=True)
class NES(Differences):
    """Natural evolution strategies: normal directions, antithetic (Ilyas et al. 2018, algorithm
    1).
    """

    pairs: int = 25
    sigma: float = 0.001

    def __call__(self, cases: Cases, delta: Any, gradient: bool, progress: Tensor) -> Point:
        return self._answer(keys.normal, cases, delta, gradient, progress)


@dataclass(frozen=True)
class SPSA(Differences):
    """Simultaneous perturbation: directions of fair signs (Uesato et al. 2018, algorithm 1)."""

    pairs: int = 64
    sigma: float = 0.01

    def __call__(self, cases: Cases, delta: Any, gradient: bool, progress: Tensor) -> Point:
        return self._answer(keys.signs, cases, delta, gradient, progress)


def _steps(queries: int, pairs: int) -> int:
    """Gradient steps within a budget of queries, one of which judges the last point."""
    steps = (queries - 1) // (2 * pairs + 1)
    if steps < 1:
        raise InputError(
            f"queries = {queries} with pairs = {pairs}",
            f"at least {2 * pairs + 2} queries: one step and a look at where it led",
            "allow more queries, or use fewer pairs",
        )
    return steps


def _room(threat: AnyThreat) -> int:
    return 1 if threat.site.shared else ROOM


def nes(
    threat: AnyThreat,
    queries: int = 5000,
    pairs: int = 25,
    sigma: float = 0.001,
    length: float = 0.2,
    decay: float = 0.9,
    objective: Objective = CrossEntropy(),
    start: Start = Zero(),
) -> Attack:
    """Momentum PGD on gradients estimated from queries alone, never more than `queries` (Ilyas et
    al. 2018).

    Deviation: the step is not shortened on plateaus.
    """
    search = MomentumPGD(_steps(queries, pairs), length, start, decay=decay)
    room = _room(threat)
    return Attack(threat, objective, search, wrap=lambda oracle: NES(oracle, pairs, sigma, room))


def spsa(
    threat: AnyThreat,
    queries: int = 5000,
    pairs: int = 64,
    sigma: float = 0.01,
    length: float = 0.3,
    objective: Objective = Margin(),
    start: Start = Zero(),
) -> Attack:
    """Adam on gradients estimated from queries along random signs, never more than `queries`
    (Uesato et al. 2018).
    """
    search = Adam(_steps(queries, pairs), length, start)
    room = _room(threat)
    return Attack(threat, objective, search, wrap=lambda oracle: SPSA(oracle, pairs, sigma, room))
