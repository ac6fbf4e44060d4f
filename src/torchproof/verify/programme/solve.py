"""Linear programmes solved by HiGHS, and bounds that do not take its word.

For any multipliers y, y <= 0 on inequalities, weak duality with the reduced costs on the box gives
min <c, v> >= <b, y> + sum_j min over [low_j, high_j] of (c - A^T y)_j v_j. Whatever the solver
says, only this value of its multipliers counts, less what float64 may have lost in it (Neumaier and
Shcherbina 2004) and what the network itself may break rows by.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy import sparse

from torchproof.verify.clock import attended
from torchproof.verify.programme.draft import Programme, U

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

    def part(self, share: float) -> Clock:
        """A clock of its own for a share of what is left."""
        return Clock(None if self.limit is None else share * self.left)

    @property
    def spent(self) -> float:
        return time.monotonic() - self.start


class Answer(NamedTuple):
    """bound: what the minimum is not below, -inf where nothing is known; point: where the solver
    was best, None where it has none; status: how it ended, "enough" where it was told to stop;
    multipliers: of the rows, where the bound is theirs; error: how far the bound may be above what
    holds in real arithmetic.
    """

    bound: float
    point: np.ndarray | None
    status: Status
    multipliers: np.ndarray | None = None
    error: float = 0.0

    @property
    def sure(self) -> float:
        """The bound less its error."""
        return self.bound - self.error


class Value(NamedTuple):
    """A bound, and how far it may be above what holds in real arithmetic."""

    bound: float
    error: float


NOTHING = Answer(-np.inf, None, "limit")
STATUS: dict[int, Status] = {0: "solved", 1: "limit", 2: "infeasible"}


def least(programme: Programme, c: np.ndarray, seconds: float = np.inf) -> Answer:
    """The minimum of <c, v> over the programme without its integers, from below.

    An infeasible programme, or one that the solver gives up, has no bound: a network has a point.
    By interior points, which on these programmes take a third to a ninth of the simplex's time.
    """
    end = time.monotonic() + seconds
    from scipy.optimize import linprog  # takes most of a second, the first time

    seconds = end - time.monotonic()
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
    solve = partial(linprog, c, bounds=box, method="highs-ipm", options=options, **parts)
    found = attended(solve, seconds)
    if found is None:
        return NOTHING
    status = STATUS.get(found.status, "failed")
    if status != "solved":
        return Answer(-np.inf, None, status)
    y = np.zeros(len(tie))
    if (~tie).any():
        y[~tie] = found.ineqlin.marginals
    if tie.any():
        y[tie] = found.eqlin.marginals
    bound, error = dual_value(programme, c, y)
    return Answer(bound, found.x, status, y, error)


def impossible(programme: Programme, seconds: float = np.inf) -> bool:
    """Do multipliers prove that the programme, without its integers, has no point? They are those
    of the least sum by which its rows have to be broken, and bound the objective 0 from above 0.
    """
    rows = len(programme.most)
    one = sparse.eye_array(rows, format="csr")
    matrix = sparse.hstack([programme.matrix, -one, one[:, programme.ties]], format="csr")
    broken = matrix.shape[1] - len(programme.low)
    far = float((abs(programme.matrix) @ programme.sizes + np.abs(programme.most)).max(initial=0))
    elastic = replace(
        programme, matrix=matrix,
        low=np.concatenate([programme.low, np.zeros(broken)]),
        high=np.concatenate([programme.high, np.full(broken, far)]),
        integer=np.concatenate([programme.integer, np.zeros(broken, dtype=bool)]),
    )  # fmt: skip
    nothing = np.zeros(len(programme.low))
    found = least(elastic, np.concatenate([nothing, np.ones(broken)]), seconds)
    if found.multipliers is None:
        return False
    bound, error = dual_value(programme, nothing, found.multipliers)
    return bound > error


def dual_value(programme: Programme, c: np.ndarray, y: np.ndarray) -> Value:
    """The bound of multipliers y (rows,) on the minimum of <c, v>; their sign is mended.

    Error: |y| times the rows' slack; a sum of n products is off by at most n u / (1 - n u) of their
    absolute values, for the reduced costs times the sizes of the variables, and for the two sums;
    ends of boxes may be rounded. All of it twice, for the other half pays for computing it.
    """
    y = np.where(programme.ties, y, np.minimum(y, 0.0))
    reduced = c - programme.matrix.T @ y
    ends = np.minimum(reduced * programme.low, reduced * programme.high)
    matrix, far = abs(programme.matrix), np.abs(y)
    most = np.diff(matrix.tocsc().indptr).max(initial=0) + 16
    reach = (np.abs(c) + matrix.T @ far) @ programme.sizes
    sums = far @ np.abs(programme.most) + np.abs(ends).sum()
    error = 2 * (far @ programme.slack) + 2 * U * (most * reach + (len(y) + len(c) + 16) * sums)
    return Value(float(y @ programme.most + ends.sum()), float(error) + 1e-280)
