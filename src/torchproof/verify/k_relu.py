"""k-ReLU (Singh et al. 2019c): linear programmes in which groups of hinges are in their joint hull,
and not each in its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from torchproof.core.errors import InputError, unknown
from torchproof.core.threats import AnyThreat
from torchproof.verify.bounds import Margins, Pass
from torchproof.verify.clock import OutOfTime
from torchproof.verify.graph import Graph, Node
from torchproof.verify.lp import lp_bounds
from torchproof.verify.programme.draft import Form, U
from torchproof.verify.programme.example import START, Example, by_example
from torchproof.verify.programme.hulls import Hulls, directions, hull, vertices
from torchproof.verify.programme.sets import flat
from torchproof.verify.programme.solve import Clock, least
from torchproof.verify.relax import Hinge

Limits = Literal["backward", "lp"]
ROWS = 256  # walked back at once
GAIN = 1e-6  # share of a box that a sum of a group's inputs must cut off


def k_relu_margins(
    model: nn.Module | Graph, x: Tensor, y: Tensor, threat: AnyThreat, *,
    k: int = 2, groups: int = 100, limits: Limits = "backward", middle: str = START,
    time_limit: float | None = None,
) -> Margins:  # fmt: skip
    """(B, K - 1) lower bounds of z_y - z_t like `lp_margins`, and never below them: ReLU, leaky and
    parametric ReLU of groups of k are in their joint hull.

    k: 2 or 3; groups: the most in each layer; limits: where bounds of the sums and differences of a
    group's inputs come from, walks back or linear programmes (4 for each group of 2, 20 for each of
    3). Groups are of open neurons of one layer, in the order of the area of their triangles: one
    after the other, then any others among the first. Rows of a hull are added where the last
    optimum breaks them. time_limit: half of what the programmes of `lp_margins` leave is for hulls.

    Raises like `lp_margins`; InputError for another k, UnknownName for other limits.
    """
    if k not in (2, 3):
        raise InputError(f"k = {k}", "2 or 3", "use lp_margins for single neurons")
    if limits not in LIMITS:
        raise unknown("kind of limits", limits, LIMITS)

    def bounds(example: Example) -> np.ndarray:
        alone = lp_bounds(example)
        cut = join(example, k, groups, limits)
        found: np.ndarray = np.maximum(alone, lp_bounds(example)) if cut else alone
        return found

    return by_example(model, x, y, threat, bounds, middle, time_limit)


def join(example: Example, k: int = 2, groups: int = 100, limits: Limits = "backward") -> bool:
    """Puts the hulls of all layers into the programme of an example, in half of the time that is
    left; whether there are any, and time to use them.
    """
    clock = example.clock.part(0.5)
    try:
        for node in example.maps.bends:
            if isinstance(example.relaxed.encoding.known(node, example.intervals), Hinge):
                _join(example, node, k, groups, limits, clock)
    except OutOfTime:
        return False
    return bool(example.relaxed.encoding.cuts) and example.clock.left > 0


def _join(example: Example, node: Node, k: int, most: int, limits: Limits, clock: Clock) -> None:
    """Puts the hulls of a layer's groups, of fewer than k where no more are open, into the
    programme.
    """
    encoding = example.relaxed.encoding
    (name,) = example.maps.graph.inputs(node)
    before, known = example.intervals[name], encoding.known(node, example.intervals)
    assert isinstance(known, Hinge)
    low, high = flat(before.lower), flat(before.upper)
    slopes = flat(torch.zeros_like(before.lower) + known.slope)
    open_ = np.nonzero((low < 0) & (high > 0))[0]
    order = open_[np.argsort(low[open_] * high[open_] * (1 - slopes[open_]), kind="stable")]
    k = min(k, len(order))
    if k < 2:
        return
    chosen = np.array(list(itertools.islice(_groups(order, k), most)), dtype=int).reshape(-1, k)
    box, wide = _box(low[chosen], high[chosen]), (high - low)[chosen] @ np.abs(directions(k)).T
    bounds = LIMITS[limits](example, name, chosen, box, clock)
    gains = (box - bounds > GAIN * wide).any(1)
    z, found = encoding.entries(name, before, np.zeros(len(low), dtype=bool)), []
    for group, limit in zip(chosen[gains], bounds[gains], strict=True):
        if clock.left <= 0:
            break
        joint = hull(vertices(limit), slopes[group])
        if joint is not None:
            found.append((joint, _pair(z.at(group), encoding.forms[node.name].at(group))))
    if found:
        encoding.cuts.append(Hulls(encoding.draft, found))


def _groups(order: np.ndarray, k: int) -> Iterator[tuple[int, ...]]:
    """One after the other, then all others, of the first neurons before later ones."""
    numbers, seen = order.tolist(), set()
    for first in range(0, len(numbers) - k + 1, k):
        group = tuple(numbers[first : first + k])
        seen.add(group)
        yield group
    for last in range(k - 1, len(numbers)):
        for rest in itertools.combinations(numbers[:last], k - 1):
            if (*rest, numbers[last]) not in seen:
                yield (*rest, numbers[last])


def _box(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """(G, directions) what the box alone says of groups; low, high (G, k)."""
    rows = directions(low.shape[1])
    found: np.ndarray = high @ rows.clip(min=0).T + low @ rows.clip(max=0).T
    return found


def _pair(z: Form, h: Form) -> Form:
    return Form(*(np.concatenate(both) for both in zip(z, h, strict=True)))


def _walked(
    example: Example, name: str, chosen: np.ndarray, box: np.ndarray, clock: Clock
) -> np.ndarray:
    """The best of the propagated bounds, as long as there is time."""
    rows, shape, found = directions(chosen.shape[1]), example.maps.shape(name), box.copy()
    group, row = np.nonzero(np.broadcast_to((rows != 0).sum(1) > 1, box.shape))
    for first in range(0, len(group), ROWS):
        if clock.left <= 0:
            break
        place = group[first : first + ROWS], row[first : first + ROWS]
        start = np.zeros((len(place[0]), int(np.prod(shape))))
        np.put_along_axis(start, chosen[place[0]], -rows[place[1]], 1)
        wanted = torch.from_numpy(start).view(-1, *shape)
        for passed in example.passes:
            found[place] = np.minimum(found[place], -_lower(passed, name, wanted).numpy())
    return found


def _lower(passed: Pass, name: str, rows: Tensor) -> Tensor:
    """(R,) lower bounds of rows (R, ...) of a node in the middle."""
    interval = passed.bound.last == "interval"
    stops = {n: v for n, v in passed.intervals.items() if n in passed.curved} if interval else None
    found = passed.walk.lower({name: rows}, torch.zeros(len(rows), dtype=torch.long), stops)
    return found if isinstance(found, Tensor) else found.sure


def _solved(
    example: Example, name: str, chosen: np.ndarray, box: np.ndarray, clock: Clock
) -> np.ndarray:
    """A linear programme for each sum and difference, as long as there is time."""
    encoding, found = example.relaxed.encoding, box.copy()
    linear, rows = encoding.linear(name), directions(chosen.shape[1])
    for place, group in enumerate(chosen):
        matrix, at = linear.matrix[group].toarray(), linear.constant[group]
        for number in np.nonzero((rows != 0).sum(1) > 1)[0]:
            if clock.left <= 0:
                return found
            a = rows[number]
            row, doubt = -a @ matrix, np.abs(a) @ linear.doubt[group]
            bound = encoding.least(row, least, clock.left).sure
            noise = 16 * U * (np.abs(row) @ encoding.draft.sizes + np.abs(at).sum())
            found[place, number] = min(found[place, number], a @ at - bound + doubt + noise)
    return found


LIMITS: dict[str, Callable[[Example, str, np.ndarray, np.ndarray, Clock], np.ndarray]] = {
    "backward": _walked, "lp": _solved,
}  # fmt: skip
"""From an example, a node before hinges, groups of its entries (G, k), what their box says and a
clock to bounds (G, directions) from above.
"""
