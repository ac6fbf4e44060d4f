"""Nonlinear operations as rows: hinges and maxima exactly or by their convex hulls' outlines, all
others by the two lines of their relaxation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from torchproof.verify.interval import Interval
from torchproof.verify.programme.draft import Draft, Form
from torchproof.verify.programme.sets import flat
from torchproof.verify.relax import Hinge, Largest, Relaxation

Bend = Callable[[Draft, Any, Interval, Callable[[int, np.ndarray], Form], bool], Form]
"""From the draft, the relaxation, the interval of the input, a function that gives the wanted
entries of an input, and whether integers are asked for, to the answer's entries (n,).
"""


def hinge(
    draft: Draft, known: Hinge, at: Interval,
    entries: Callable[[int, np.ndarray], Form], exact: bool,
) -> Form:  # fmt: skip
    """h = max(z, s z): h >= z, h >= s z, and the chord above (Ehlers 2017, the triangle); exactly
    (Tjeng et al. 2019) with a in {0, 1}: h <= z - (1 - s) l (1 - a), h <= s z + (1 - s) u a.
    """
    slope = flat(torch.zeros_like(at.lower) + known.slope)
    low, high = flat(at.lower), flat(at.upper)
    above, below = low >= 0, (high <= 0) & (low < 0)
    bent = ~(above | below)
    z = entries(0, above | bent | (below & (slope != 0)))
    answer = Form.zeros(len(low))
    answer.put(above, z.at(above))
    scaled = Form(z.which, slope * z.factor, slope * z.constant, slope * z.doubt)
    answer.put(below, scaled.at(below))
    if not bent.any():
        return answer
    lines = known.lines([at])
    chord, chord_at = flat(lines.high[0])[bent], flat(lines.high_at)[bent]
    s, l, u = slope[bent], low[bent], high[bent]  # noqa: E741
    z = z.at(bent)
    h = draft.variables(s * l, u)
    draft.at_most([(1.0, z), (-1.0, h)], 0.0)
    draft.at_most([(s, z), (-1.0, h)], 0.0)
    draft.at_most([(1.0, h), (-chord, z)], chord_at)
    if exact:
        a = draft.variables(np.zeros(len(s)), np.ones(len(s)), integer=True)
        draft.at_most([(1.0, h), (-1.0, z), (-(1 - s) * l, a)], -(1 - s) * l)
        draft.at_most([(1.0, h), (-s, z), (-(1 - s) * u, a)], 0.0)
    answer.put(bent, h)
    return answer


def largest(
    draft: Draft, known: Largest, at: Interval,
    entries: Callable[[int, np.ndarray], Form], exact: bool,
) -> Form:  # fmt: skip
    """y = max_i x_i over windows: y >= x_i, and the plane of the relaxation above; exactly (Tjeng
    et al. 2019) with a_i in {0, 1} of sum 1: y <= x_i + (1 - a_i) (max_{j != i} u_j - l_i).
    """
    shape = (-1, at.lower.shape[-1])
    low, high = flat(at.lower).reshape(shape), flat(at.upper).reshape(shape)
    windows = np.arange(len(low))
    best = low.argmax(1)
    gamma = low[windows, best]
    rivals = high.copy()
    rivals[windows, best] = -np.inf
    bent = gamma < rivals.max(1)
    possible = bent[:, None] & (high > gamma[:, None])
    possible[windows, best] = True
    x = entries(0, possible.ravel()).shaped(*low.shape)
    answer = Form.zeros(len(low))
    answer.put(~bent, x.at((windows[~bent], best[~bent])))
    if not bent.any():
        return answer
    y = draft.variables(gamma[bent], high[bent].max(1))
    answer.put(bent, y)
    lines = known.slanted([at])
    above = flat(lines.high[0]).reshape(low.shape)[bent]
    x, low, high, possible = x.at(bent), low[bent], high[bent], possible[bent]
    rows, _ = np.nonzero(possible)
    draft.at_most([(1.0, x.at(possible)), (-1.0, y.at(rows))], 0.0)
    draft.at_most([(1.0, y), (-np.where(possible, above, 0.0), _kept(x, possible))],
                  flat(lines.high_at)[bent])  # fmt: skip
    if exact:
        _choice(draft, x, y, possible, _others(np.where(possible, high, -np.inf)) - low)
    return answer


def _choice(draft: Draft, x: Form, y: Form, possible: np.ndarray, reach: np.ndarray) -> None:
    rows, _ = np.nonzero(possible)
    one = np.ones(len(rows))
    a = draft.variables(0 * one, one, integer=True)
    terms = [(1.0, y.at(rows)), (-1.0, x.at(possible)), (reach[possible], a)]
    draft.at_most(terms, reach[possible])
    wide = Form.zeros(*possible.shape)
    wide.put(possible, a)
    draft.equal([(1.0, wide)], 1.0)


def _kept(x: Form, possible: np.ndarray) -> Form:
    """With zeros in the place of entries that cannot be the largest."""
    kept = Form.zeros(*possible.shape)
    kept.put(possible, x.at(possible))
    return kept


def _others(high: np.ndarray) -> np.ndarray:
    """The largest of the other entries of each row."""
    two = np.sort(high, axis=1)[:, -2:]
    first = high.argmax(1)
    found = np.repeat(two[:, 1:], high.shape[1], axis=1)
    found[np.arange(len(high)), first] = two[:, 0]
    return found


def lines_of(
    draft: Draft, known: Relaxation, at: Sequence[Interval],
    entries: Callable[[int, np.ndarray], Form], shapes: Sequence[tuple[int, ...]],
    shape: tuple[int, ...],
) -> Form:  # fmt: skip
    """Any operation by the lines below and above it; shapes: of the inputs, which broadcast."""
    lines, range_ = known.lines(at), known.range(at)
    size = int(np.prod(shape))
    y = draft.variables(flat(range_.lower), flat(range_.upper))
    below: list[tuple[np.ndarray | float, Form]] = [(-1.0, y)]
    above: list[tuple[np.ndarray | float, Form]] = [(1.0, y)]
    for place, own in enumerate(shapes):
        x = entries(place, np.ones(int(np.prod(own)), dtype=bool))
        x = x.shaped(*own).spread(shape).shaped(size)
        low, high = _spread(lines.low[place], shape), _spread(lines.high[place], shape)
        below.append((low, x))
        above.append((-high, x))
    draft.at_most(below, -_spread(lines.low_at, shape))
    draft.at_most(above, _spread(lines.high_at, shape))
    return y


def _spread(t: torch.Tensor, shape: tuple[int, ...]) -> np.ndarray:
    own = tuple(t.shape[1:])
    return np.broadcast_to(flat(t).reshape(own), shape).reshape(-1)


BENDS: dict[type[Relaxation], Bend] = {Hinge: hinge, Largest: largest}
"""Relaxations that have rows of their own; the others are their two lines."""
