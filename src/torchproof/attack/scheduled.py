"""Another oracle for each stage of a search: few samples first, many when it gets hard (Tramer et
al. 2020, against k-winners-take-all).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchproof.attack.cases import Cases, Point
from torchproof.attack.oracle import Oracle
from torchproof.core.errors import InputError
from torchproof.core.schedules import segment
from torchproof.core.values import put, take, tree


@dataclass(frozen=True)
class Scheduled:
    """stages[i] answers until the progress until[i], by default after equal shares.

    >>> wrap = lambda o: Scheduled((NES(o, 50, sigma), NES(o, 500, sigma)), (0.2, 1.0))

    Problems at different stages are asked about apart; all are then counted at the price of the
    dearest stage that was asked. Raises InputError for ends that do not rise to 1.
    """

    stages: tuple[Oracle, ...]
    until: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        n = len(self.stages)
        ends = self.until or tuple((i + 1) / n for i in range(n))
        if n == 0 or len(ends) != n or list(ends) != sorted(ends) or ends[-1] < 1:
            given = f"{n} stages that end at {ends}"
            raise InputError(given, "as many rising ends, the last being 1", "write (0.2, 1.0)")
        object.__setattr__(self, "until", tuple(ends))

    @property
    def estimates(self) -> bool:
        """Are there stages whose gradients are estimated from answers?"""
        return any(getattr(stage, "estimates", False) for stage in self.stages)

    def __call__(self, cases: Cases, delta: Any, gradient: bool, progress: Tensor) -> Point:
        if not gradient:
            return self.stages[0](cases, delta, False, progress)
        at = segment(progress, self.until)
        present = torch.unique(at).tolist()
        if len(present) == 1:
            only: Point = self.stages[present[0]](cases, delta, True, progress)
            return only
        rows = [(at == stage).nonzero()[:, 0] for stage in present]
        points = [
            self.stages[stage](take(cases, r), take(delta, r), True, progress[r])
            for stage, r in zip(present, rows, strict=True)
        ]
        return _joined(points, rows, delta)


def _joined(points: list[Point], rows: list[Tensor], delta: Any) -> Point:
    """One answer from those about different rows."""
    first, n = points[0], sum(len(r) for r in rows)

    def room(t: Tensor) -> Tensor:
        return t.new_zeros((n, *t.shape[1:]))

    loss, score, won = room(first.loss), room(first.score), room(first.won)
    grad: Any = tree(torch.zeros_like, delta)
    where: Any = None if all(p.at is None for p in points) else tree(torch.clone, delta)
    undefined = torch.zeros(n, dtype=torch.int64, device=loss.device)
    for point, r in zip(points, rows, strict=True):
        loss[r], score[r], won[r] = point.loss, point.score, point.won
        put(grad, r, point.grad)
        if point.at is not None:
            put(where, r, point.at)
        if point.undefined is not None:
            undefined[r] = point.undefined
    cost = (max(p.cost[0] for p in points), max(p.cost[1] for p in points))
    return Point(loss, score, won, grad, cost, where, undefined if bool(undefined.any()) else None)
