"""Input sets in variables and rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from torchproof.core.errors import InputError, unknown
from torchproof.core.norms import name_of
from torchproof.verify.inputs import InputSet
from torchproof.verify.programme.draft import Draft, Form, U
from torchproof.verify.programme.solve import Value, dual_value

OVER = 1e-4  # share of the radius by which a point may lie outside an L2 ball


@dataclass
class Tangents:
    """An L2 ball from outside: sum t_i <= eps^2, and t_i >= 2 a_i d_i - a_i^2, the tangent of d_i^2
    at a_i, for as many a as there are. At |a| = eps their sum is the tangent plane <a, d> <= eps^2;
    entry by entry the tangents of different a work together (Vielma et al. 2017).

    rows: of the programme that stand for the ball.
    """

    draft: Draft
    inside: InputSet
    moved: Form
    squares: Form
    touched: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    rows: list[np.ndarray] = field(default_factory=list)

    def __post_init__(self) -> None:
        everything = Form(*(part[None] for part in self.squares))
        self.rows.append(self.draft.at_most([(1.0, everything)], _radius(self.inside) ** 2))

    def bound(self, c: np.ndarray, y: np.ndarray) -> Value:
        """What multipliers y prove about <c, v> with the ball itself, cut with the box, in the
        place of its rows. `InputSet.lowest` is off by no more than roundings of the reduced costs
        times a coordinate's reach or the radius.
        """
        programme, own = self.draft.done(), self.moved.which
        y = y.copy()
        y[np.concatenate(self.rows)] = 0.0
        (value, error), reduced = dual_value(programme, c, y), (c - programme.matrix.T @ y)[own]
        ends = np.minimum(reduced * programme.low[own], reduced * programme.high[own])
        row = torch.from_numpy(reduced).view_as(self.inside.x)
        least = float(self.inside.lowest(row, torch.tensor([0])))
        far = np.abs(reduced) @ (programme.sizes[own] + _radius(self.inside))
        error += (16 * len(own) + 256) * U * far + 8 * U * (abs(value) + abs(least))
        return Value(value - float(ends.sum()) + least, float(error))

    def __call__(self, v: np.ndarray) -> bool:
        """Touches the ball at its nearest point to v, in entries whose squares are too small there;
        False for a point that is as good as inside.
        """
        d, eps = self.moved.value(v), _radius(self.inside)
        length = float(np.linalg.norm(d))
        if length <= eps * (1 + OVER):
            return False
        a = d * (eps / length)
        missing = 2 * a * d - a * a - self.squares.value(v)
        where = missing > OVER * eps**2 / len(d)
        if where.any():
            self.touch(where, a[where])
        return bool(where.any())

    def touch(self, where: np.ndarray, a: np.ndarray) -> None:
        """where: entries (n,) whose squares get tangents; a: one place for each of these."""
        self.touched.append((where, a))
        slopes: np.ndarray = 2 * a
        terms = [(slopes, self.moved.at(where)), (-np.ones_like(a), self.squares.at(where))]
        self.rows.append(self.draft.at_most(terms, a * a))


def inputs(draft: Draft, inside: InputSet) -> tuple[Form, Tangents | None]:
    """The entries (n,) of an input of the set, which holds one example, and what brings the rows
    nearer to a set that is no polyhedron.

    Raises UnknownName for a norm without a way, InputError for an L0 ball without a box.
    """
    name = name_of(inside.ball.norm)
    if name not in SETS:
        raise unknown("norm of a ball, for a programme", name, SETS)
    moved, tangents = SETS[name](draft, inside)
    return moved._replace(constant=moved.constant + flat(inside.x)), tangents


def _linf(draft: Draft, inside: InputSet) -> tuple[Form, None]:
    return draft.variables(flat(inside.ball.floor), flat(inside.ball.ceiling)), None


def _l1(draft: Draft, inside: InputSet) -> tuple[Form, None]:
    """d = p - n with p, n >= 0 in the box and sum(p + n) <= radius."""
    low, high = flat(inside.ball.floor), flat(inside.ball.ceiling)
    zero = np.zeros(len(low))
    moved = draft.variables(low, high)
    up, down = draft.variables(zero, high), draft.variables(zero, -low)
    draft.equal([(1.0, moved), (-1.0, up), (1.0, down)], 0.0)
    both = Form(*(np.concatenate(pair)[None] for pair in zip(up, down, strict=True)))
    draft.at_most([(1.0, both)], _radius(inside))
    return moved, None


def _l2(draft: Draft, inside: InputSet) -> tuple[Form, Tangents]:
    low, high = flat(inside.ball.floor), flat(inside.ball.ceiling)
    moved = draft.variables(low, high)
    squares = draft.variables(np.zeros(len(low)), np.maximum(low**2, high**2))
    return moved, Tangents(draft, inside, moved, squares)


def _l0(draft: Draft, inside: InputSet) -> tuple[Form, None]:
    """low s <= d <= high s with sum s <= k switches s in {0, 1}; with s anywhere between, these
    rows are the convex hull of the set.
    """
    low, high = flat(inside.ball.floor), flat(inside.ball.ceiling)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        given = "an L0 ball without a box, for a programme"
        raise InputError(given, "pixels in a box", "give the threat its low and high")
    moved = draft.variables(low, high)
    switch = draft.variables(np.zeros(len(low)), np.ones(len(low)), integer=True)
    draft.at_most([(1.0, moved), (-high, switch)], 0.0)
    draft.at_most([(-1.0, moved), (low, switch)], 0.0)
    draft.at_most([(1.0, Form(*(part[None] for part in switch)))], np.floor(_radius(inside)))
    return moved, None


def _radius(inside: InputSet) -> float:
    return float(inside.ball.radius[0])


SETS: dict[str, Callable[[Draft, InputSet], tuple[Form, Tangents | None]]] = {
    "linf": _linf, "l2": _l2, "l1": _l1, "l0": _l0,
}  # fmt: skip


def flat(t: Tensor) -> np.ndarray:
    """The only example of t (1, ...), as (n,)."""
    found: np.ndarray = t[0].detach().reshape(-1).double().numpy()
    return found
