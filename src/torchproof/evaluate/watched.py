"""An oracle that keeps a diary: how far each search got, and whether it ever won."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from torchproof.attack.cases import Cases, Point
from torchproof.attack.oracle import Oracle


@dataclass(frozen=True)
class Watched:
    """Answers as `inner` does, and notes, by the key of each problem, the best score after every
    question and whether a point inside the set won.
    """

    inner: Oracle | None = None
    path: dict[int, list[float]] = field(default_factory=dict)
    wins: set[int] = field(default_factory=set)

    def over(self, inner: Oracle) -> Watched:
        """The same diary about another oracle."""
        return replace(self, inner=inner)

    def __call__(self, cases: Cases, delta: Any, gradient: bool, progress: Tensor) -> Point:
        assert self.inner is not None
        point = self.inner(cases, delta, gradient, progress)
        at: Any = delta if point.at is None else point.at
        won = point.won & cases.set.inside(at)
        keys, scores = cases.key.tolist(), point.score.tolist()
        for key, score, lost in zip(keys, scores, won.tolist(), strict=True):
            path = self.path.setdefault(key, [])
            path.append(max(score, path[-1]) if path else score)
            if lost:
                self.wins.add(key)
        return point

    def won(self, key: int) -> bool:
        """Did this problem's search ask about a winning point inside the set?"""
        return key in self.wins

    def late(self, key: int, steps: int) -> float | None:
        """The share of the rise of the best score that came in the second half of a search of so
        many steps: 1/2 for steady progress, 0 without any; None where it was not seen to its end.
        """
        path = self.path.get(key, [])
        if len(path) < max(steps, 3):
            return None
        rise = path[-1] - path[0]
        return (path[-1] - path[(len(path) - 1) // 2]) / rise if rise > 0 else 0.0
