"""Linear programmes with integers, by branch and bound (Land and Doig 1960): every bound is that of
a linear programme, which its multipliers prove.

HiGHS has such a search of its own. It is not used, because nothing can check its dual bound, and
that is wrong at times: see `docs/certification/programmes.md`.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from torchproof.verify.programme.draft import Programme
from torchproof.verify.programme.solve import Answer, Clock, Status, impossible, least

GAP = 1e-6  # a search ends this near to the best point
WHOLE = 1e-6  # what is so near to an integer passes for one, at points; bounds do not rest on it

Enough = Callable[[float, float], bool]
"""From the bound and the value of the best point so far to whether the search may end."""


def least_integer(
    programme: Programme, c: np.ndarray, seconds: float = np.inf,
    enough: Enough = lambda bound, best: False,
) -> Answer:  # fmt: skip
    """The minimum of <c, v> over the programme, from below, as far as `seconds` go; of one with
    integers what float64 may have lost is taken off already.

    The part with the lowest bound is divided first, at the integer whose fraction, times the
    multipliers of its rows, is the largest. The search ends at a part that needs no division: no
    other is lower. "failed" where nothing is left to divide and the solver told nothing.
    """
    if not programme.integer.any():
        return least(programme, c, seconds)
    return _Search(programme, c, Clock(None if seconds == np.inf else seconds)).run(enough)


@dataclass(order=True, frozen=True)
class _Part:
    """What lies between low and high (integers,); at: the integer to divide at, and where; None for
    a point that is whole.
    """

    bound: float
    number: int
    low: np.ndarray = field(compare=False)
    high: np.ndarray = field(compare=False)
    at: tuple[int, float] | None = field(compare=False)

    def halves(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        assert self.at is not None, "a whole point is not divided"
        place, value = self.at
        low, high = self.low.copy(), self.high.copy()
        low[place], high[place] = np.floor(value) + 1, np.floor(value)
        yield self.low, high
        yield low, self.high


class _Search:
    def __init__(self, programme: Programme, c: np.ndarray, clock: Clock) -> None:
        self.programme, self.c, self.clock = programme, c, clock
        self.places = np.flatnonzero(programme.integer)
        self.reach = abs(programme.matrix).tocsc()[:, self.places].T
        self.best = np.inf
        self.point: np.ndarray | None = None
        self.parts: list[_Part] = []
        self.numbers = itertools.count()

    def run(self, enough: Enough) -> Answer:
        low, high = (end[self.places] for end in (self.programme.low, self.programme.high))
        self.ask(np.ceil(low), np.floor(high), -np.inf)
        while self.parts:
            part = self.parts[0]
            if part.bound >= self.best - GAP or part.at is None:
                done: Status = "solved" if self.best < np.inf else "failed"
                return Answer(part.bound, self.point, done)
            if enough(part.bound, self.best):
                return Answer(part.bound, self.point, "enough")
            if self.clock.left <= 0:
                return Answer(part.bound, self.point, "limit")
            heapq.heappop(self.parts)
            for low, high in part.halves():
                self.ask(low, high, part.bound)
        return Answer(-np.inf, None, "infeasible")  # and no bound: a network has a point

    def ask(self, low: np.ndarray, high: np.ndarray, above: float) -> None:
        """A part more, unless it certainly has no point. above: what it is not below."""
        ends = self.programme.low.copy(), self.programme.high.copy()
        ends[0][self.places], ends[1][self.places] = low, high
        part = replace(self.programme, low=ends[0], high=ends[1])
        found = least(part, self.c, self.clock.left)
        if found.status == "infeasible" and impossible(part, self.clock.left):
            return
        at, point = self._at(found, low, high), found.point
        if at is None and point is not None and self.c @ point < self.best:
            self.best, self.point = float(self.c @ point), point
        bound = max(above, found.sure)
        heapq.heappush(self.parts, _Part(bound, next(self.numbers), low, high, at))

    def _at(self, found: Answer, low: np.ndarray, high: np.ndarray) -> tuple[int, float] | None:
        """Where to divide; the middle of the widest where the solver told nothing."""
        if found.point is None or not np.isfinite(found.point).all() or found.multipliers is None:
            widest = int((high - low).argmax())
            open_ = bool(high[widest] > low[widest])
            return (widest, float((low[widest] + high[widest]) / 2)) if open_ else None
        values = found.point[self.places].clip(low, high)  # solvers leave boxes by their tolerances
        fraction = np.abs(values - values.round())
        fraction[fraction <= WHOLE] = 0.0
        if not fraction.any():
            return None
        worth = fraction * (self.reach @ np.abs(found.multipliers) + GAP)
        place = int(worth.argmax())
        return place, float(values[place])
