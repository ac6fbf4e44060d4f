"""Linear programmes solved by HiGHS, and bounds that do not take its word.

For any multipliers y, y <= 0 on inequalities, weak duality with the reduced costs on the box gives
min <c, v> >= <b, y> + sum_j min over [low_j, high_j] of (c - A^T y)_j v_j. Whatever the solver
says, only this value of its multipliers counts.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from torchproof.verify.programme.draft import Programme

LATE = 0.7  # seconds that a search may go on after its limit

Status = Literal["solved", "enough", "limit", "infeasible", "failed"]


@dataclass(frozen=True)
class Clock:
    """Seconds left of a limit, None for no limit."""

    limit: float | None = None
    start: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        if self.limit is None:
            return np.inf
        return max(0.0, self.limit - self.spent)

    @property
    def spare(self) -> float:
        """What to ask of a search with integers, which looks at its clock between its steps."""
        return max(0.0, self.left - min(LATE, 0.1 * (self.limit or 0.0)))

    def part(self, share: float) -> Clock:
        """A clock of its own for a share of what is left."""
        return Clock(None if self.limit is None else share * self.left)

    @property
    def spent(self) -> float:
        return time.monotonic() - self.start


class Answer(NamedTuple):
    """bound: what the minimum is not below, -inf where nothing is known; point: where the solver
    was best, None where it has none; status: how it ended, "enough" where it was told to stop;
    multipliers: of the rows, where the bound is theirs.
    """

    bound: float
    point: np.ndarray | None
    status: Status
    multipliers: np.ndarray | None = None


NOTHING = Answer(-np.inf, None, "limit")
STATUS: dict[int, Status] = {0: "solved", 1: "limit", 2: "infeasible"}


def least(programme: Programme, c: np.ndarray, seconds: float = np.inf) -> Answer:
    """The minimum of <c, v> over the programme without its integers, from below.

    An infeasible programme, or one that the solver gives up, has no bound: a network has a point.
    By interior points, which on these programmes take a third to a ninth of the simplex's time.
    """
    from scipy.optimize import linprog

    if seconds <= 0:
        return NOTHING
    tie, rows = programme.ties, programme.matrix
    parts: dict[str, Any] = {}
    if (~tie).any():
        parts.update(A_ub=rows[~tie], b_ub=programme.most[~tie])
    if tie.any():
        parts.update(A_eq=rows[tie], b_eq=programme.most[tie])
    options = {} if seconds == np.inf else {"time_limit": float(seconds)}
    box = np.stack([programme.low, programme.high], 1)
    found = linprog(c, bounds=box, method="highs-ipm", options=options, **parts)
    status = STATUS.get(found.status, "failed")
    if status != "solved":
        return Answer(-np.inf, None, status)
    y = np.zeros(len(tie))
    if (~tie).any():
        y[~tie] = found.ineqlin.marginals
    if tie.any():
        y[tie] = found.eqlin.marginals
    return Answer(dual_value(programme, c, y), found.x, status, y)


def dual_value(programme: Programme, c: np.ndarray, y: np.ndarray) -> float:
    """The bound of multipliers y (rows,) on the minimum of <c, v>; their sign is mended."""
    y = np.where(programme.ties, y, np.minimum(y, 0.0))
    reduced = c - programme.matrix.T @ y
    ends = np.minimum(reduced * programme.low, reduced * programme.high)
    return float(y @ programme.most + ends.sum())
