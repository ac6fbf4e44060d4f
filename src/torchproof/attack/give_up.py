"""GiveUp: ends a search early where its run says that the boundary will not be reached."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from torchproof.attack.around import Around
from torchproof.attack.cases import Point
from torchproof.core.errors import InputError
from torchproof.core.sets import Set


@dataclass(frozen=True)
class Course:
    """One run so far: the first value, the best one, the best at the last mark (minus infinity
    before the first), and which mark this is; all (P,).
    """

    first: Tensor
    best: Tensor
    mark: Tensor
    number: Tensor


class Rule(ABC):
    """When a run is hopeless. Values are negative until the boundary is crossed at 0."""

    @abstractmethod
    def hopeless(self, course: Course) -> Tensor:
        """(P,) bool."""


@dataclass(frozen=True)
class Slope(Rule):
    """best + patience * (gain since the mark before) < 0. Nothing stops at the first mark."""

    patience: float = 8.0

    def __post_init__(self) -> None:
        if not self.patience > 0:
            raise InputError(
                f"patience = {self.patience!r}", "a number > 0", "8 is calibrated for APGD"
            )

    def hopeless(self, course: Course) -> Tensor:
        return course.best + self.patience * (course.best - course.mark) < 0


@dataclass(frozen=True)
class Levels(Rule):
    """best < -level * |first value|, with one level for each mark; the first value is that of the
    clean point where the search starts there (see `FromClean`).
    """

    levels: tuple[float, ...]

    def hopeless(self, course: Course) -> Tensor:
        level = course.best.new_tensor(self.levels)[course.number]
        return course.best < -level * course.first.abs()


@dataclass(frozen=True)
class Watched:
    """inner: the watched search's state; first, best, mark: as in `Course`."""

    inner: Any
    t: Tensor
    first: Tensor
    best: Tensor
    mark: Tensor

    @property
    def delta(self) -> Any:
        """Where to ask next."""
        return self.inner.delta


@dataclass(frozen=True)
class GiveUp(Around):
    """`search`, stopped at the first of `marks` (after so many answers) where `rule` calls it
    hopeless.

    `watch`: which of a point's values crosses zero at the decision boundary: its "score" (the
    margin), or its "loss", for objectives whose loss is the margin to one class; the first value is
    a score always. A search that stops is still asked about its last point. The rule reads this
    example's run alone, so no result depends on company. Raises InputError for marks that do not
    rise or lie beyond the search, or levels that are not one per mark.
    """

    marks: tuple[int, ...]
    rule: Rule = Slope()
    watch: Literal["score", "loss"] = "score"

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in zip((0, *self.marks), self.marks, strict=False))
        if not self.marks or not rising or self.marks[-1] > self.steps:
            raise InputError(
                f"marks = {self.marks} of a search of {self.steps} steps",
                "rising numbers of answers, the last at most the number of steps",
                "for APGD, take checkpoints(steps)",
            )
        levels = getattr(self.rule, "levels", self.marks)
        if len(levels) != len(self.marks) or self.watch not in ("score", "loss"):
            raise InputError(
                f"{len(levels)} levels at {len(self.marks)} marks, watch = {self.watch!r}",
                "one level for each mark; 'score' or 'loss'",
                "repeat a level, or drop its mark",
            )

    @cached_property
    def _number(self) -> Tensor:
        """(steps + 1,) which mark comes after so many answers, -1 for none."""
        number = torch.full((self.steps + 1,), -1)
        number[list(self.marks)] = torch.arange(len(self.marks))
        return number

    def init(self, set: Set, key: Tensor) -> Watched:
        low = torch.full(key.shape, -torch.inf, device=key.device)
        inner = self.search.init(set, key)
        return Watched(inner, torch.zeros_like(key), low, low.clone(), low.clone())

    def step(self, set: Set, key: Tensor, state: Watched, point: Point) -> Watched:
        value, score = getattr(point, self.watch).to(state.best), point.score.to(state.best)
        inner = self.search.step(set, key, state.inner, point)
        first = torch.where(state.t == 0, score, state.first)
        best, t = torch.maximum(state.best, value), state.t + 1
        number = self._number.to(t.device)[t.clamp_max(self.steps)]
        due = number >= 0
        course = Course(first, best, state.mark, number.clamp_min(0))
        t = torch.where(due & self.rule.hopeless(course), self.steps, t)
        return Watched(inner, t, first, best, torch.where(due, best, state.mark))
