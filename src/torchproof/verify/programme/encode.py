"""A network over an input set in variables and rows, for one example.

Variables are the entries of the input, those before nonlinear operations and those after them;
what is affine in between is composed into sparse rows. Every variable has a finite box.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import sparse

from torchproof.verify.clock import look
from torchproof.verify.graph import Node, bind
from torchproof.verify.inputs import InputSet
from torchproof.verify.interval import Interval
from torchproof.verify.operators import relaxation
from torchproof.verify.programme.bends import BENDS, lines_of
from torchproof.verify.programme.draft import Draft, Form, U
from torchproof.verify.programme.integer import Enough
from torchproof.verify.programme.maps import Maps
from torchproof.verify.programme.sets import Tangents, flat, inputs
from torchproof.verify.programme.solve import NOTHING, Answer, Clock, Value
from torchproof.verify.relax import Relaxation

ROUNDS = 12  # of rows that the last optimum breaks

Solve = Callable[..., Answer]
"""`least` or `least_integer`."""

Cut = Callable[[np.ndarray], bool]
"""From a point of a programme to whether there are now rows that it breaks."""


class Linear(NamedTuple):
    """matrix @ v + constant: sparse (n, variables), (n,), off by at most doubt (n,)."""

    matrix: Any
    constant: np.ndarray
    doubt: np.ndarray


@dataclass
class _Before:
    """Entries before a nonlinear operation: how they depend on v, and those that have a Form."""

    linear: Linear
    form: Form
    made: np.ndarray


@dataclass
class Encoding:
    """What has been written of a network; forms: the answers of the input and of the nonlinear
    nodes; relaxed: kinds of nodes for which the rows allow more than the network does; tangents:
    those of the input set, None for a polyhedron; cuts: what else adds rows that a point breaks.
    """

    maps: Maps
    exact: bool
    draft: Draft = field(default_factory=Draft)
    forms: dict[str, Form] = field(default_factory=dict)
    relaxed: set[str] = field(default_factory=set)
    tangents: Tangents | None = None
    cuts: list[Cut] = field(default_factory=list)
    _before: dict[str, _Before] = field(default_factory=dict)

    @classmethod
    def of(
        cls, maps: Maps, inside: InputSet, intervals: dict[str, Interval], exact: bool = False,
        tighten: Callable[[Encoding, str, np.ndarray], None] | None = None,
    ) -> Encoding:  # fmt: skip
        """The network around one example. intervals: of every live node; exact: with integers where
        a kind has a way; tighten: called with each node before a nonlinear one and the entries (n,)
        for which it matters, and may replace its interval.
        """
        made = cls.begun(maps, inside, exact)
        for node in maps.bends:
            if tighten is not None:
                for name in maps.graph.inputs(node):
                    tighten(made, name, made.open(node, name, intervals))
            made.write(node, intervals)
        return made

    @classmethod
    def begun(cls, maps: Maps, inside: InputSet, exact: bool = False) -> Encoding:
        """The input alone."""
        made = cls(maps, exact)
        made.forms[maps.graph.input], made.tangents = inputs(made.draft, inside)
        return made

    def open(self, node: Node, name: str, intervals: dict[str, Interval]) -> np.ndarray:
        """(n,) the entries of `name`, before the nonlinear node, whose bounds matter."""
        known = self.known(node, intervals)
        return flat(known.open([intervals[name]])).astype(bool)

    def known(self, node: Node, intervals: dict[str, Interval]) -> Relaxation:
        """What is known of a nonlinear node."""
        return relaxation(node, bind(node.args, {**self.maps.single, **intervals}))

    def write(self, node: Node, intervals: dict[str, Interval]) -> None:
        """The next nonlinear node; raises OutOfTime."""
        look()
        known = self.known(node, intervals)
        bend = BENDS.get(type(known))
        names = self.maps.graph.inputs(node)
        at = [intervals[name] for name in names]

        def entries(place: int, wanted: np.ndarray) -> Form:
            return self.entries(names[place], at[place], wanted)

        if bend is None or not self.exact:
            self.relaxed.add(node.kind)
        if bend is None:
            shape = self.maps.shape(node.name)
            shapes = [self.maps.shape(name) for name in names]
            self.forms[node.name] = lines_of(self.draft, known, at, entries, shapes, shape)
        else:
            self.forms[node.name] = bend(self.draft, known, at[0], entries, self.exact)

    def least(
        self, c: np.ndarray, solve: Solve, seconds: float, enough: Enough | None = None
    ) -> Answer:
        """The minimum of <c, v> from below. After each answer, rows that its point breaks are added
        and stay; the largest bound of all rounds counts. enough: for a search with integers.
        """
        rest = () if enough is None else (enough,)
        clock, best = Clock(None if seconds == np.inf else seconds), NOTHING
        for _ in range(ROUNDS):
            found = solve(self.draft.done(), c, clock.left, *rest)
            point = best.point if found.point is None else found.point
            values = [Value(best.bound, best.error), Value(found.bound, found.error)]
            if self.tangents is not None and found.multipliers is not None:
                values.append(self.tangents.bound(c, found.multipliers))
            bound, error = max(values, key=lambda v: v.bound - v.error)
            best = Answer(bound, point, found.status, None, error)
            if enough is not None and enough(best.bound, np.inf):
                break
            if found.point is None or not self._cut(found.point):
                break
        return best

    def _cut(self, v: np.ndarray) -> bool:
        """Adds rows that a point breaks; False where there are none."""
        first: list[Cut] = [] if self.tangents is None else [self.tangents]
        return any([cut(v) for cut in (*first, *self.cuts)])

    def sharpened(
        self, name: str, before: Interval, wanted: np.ndarray, solve: Solve,
        seconds: Callable[[int], float],
    ) -> Interval:  # fmt: skip
        """The interval of a node's answer, by two programmes for each wanted entry (n,); a bound
        that has no time stays what it was. seconds: from the programmes left to the time of one.
        """
        linear, low, high = self.linear(name), flat(before.lower).copy(), flat(before.upper).copy()
        entries = np.nonzero(wanted)[0]
        for turn, entry in enumerate(entries):
            row, at = linear.matrix[[entry]].toarray()[0], linear.constant[entry]
            doubt = linear.doubt[entry] + 8 * U * abs(at)
            left = 2 * (len(entries) - turn)
            down = self.least(row, solve, seconds(left)).sure
            up = self.least(-row, solve, seconds(left - 1)).sure
            down, up = (end - doubt - 8 * U * abs(end) for end in (down, up))
            low[entry], high[entry] = max(low[entry], down + at), min(high[entry], at - up)
        both = (torch.from_numpy(end).view_as(before.lower) for end in (low, high))
        return met([Interval(*both)])

    def linear(self, name: str) -> Linear:
        """A node's answer (n,) in the variables so far."""
        affine = self.maps.to(name)
        size = len(affine.offset)
        constant, rows, columns, data = affine.offset, [], [], []
        sizes, doubt, total = self.draft.sizes, self._off(name), np.abs(affine.offset)
        for source, part in affine.parts.items():
            form, entries = self.forms[source], part.tocoo()
            rows.append(entries.row)
            columns.append(form.which[entries.col])
            data.append(entries.data * form.factor[entries.col])
            constant = constant + part @ form.constant
            doubt = doubt + abs(part) @ form.doubt
            far = np.abs(form.factor) * sizes[form.which] + np.abs(form.constant)
            total = total + abs(part) @ far
        matrix = _matrix(data, rows, columns, (size, self.draft.count))
        longest = sum(part.shape[1] for part in affine.parts.values())
        return Linear(matrix, constant, doubt + 2 * (longest + 16) * U * total)

    def _off(self, name: str) -> np.ndarray:
        """(n,) how far the map to a node, as it has been composed, may be from the network's."""
        affine, sizes = self.maps.to(name), self.draft.sizes
        far = {}
        for source in affine.parts:
            form = self.forms[source]
            size = np.abs(form.factor) * sizes[form.which] + np.abs(form.constant)
            far[source] = torch.from_numpy(size).view(1, *self.maps.shape(source))
        return self.maps.off(name, far)

    def entries(self, name: str, interval: Interval, wanted: np.ndarray) -> Form:
        """Entries (n,) of a node before a nonlinear one; those that are not wanted may be missing
        (zero). An entry that depends on a single variable needs none of its own.
        """
        if name in self.forms:
            return self.forms[name]
        if name not in self._before:
            self._before[name] = _begun(self.linear(name))
        before = self._before[name]
        new = wanted & ~before.made
        if new.any():
            low, high = flat(interval.lower)[new], flat(interval.upper)[new]
            made = self.draft.variables(low, high)
            linear = before.linear
            self.draft.define(made, linear.matrix[new], linear.constant[new], linear.doubt[new])
            before.form.put(new, made)
            before.made |= new
        return before.form


def _begun(linear: Linear) -> _Before:
    counts = np.diff(linear.matrix.indptr)
    form, single = Form.zeros(len(counts)), counts == 1
    first = linear.matrix.indptr[:-1][single]
    form.which[single] = linear.matrix.indices[first]
    form.factor[single] = linear.matrix.data[first]
    alone = counts <= 1
    form.constant[alone], form.doubt[alone] = linear.constant[alone], linear.doubt[alone]
    return _Before(linear, form, alone)


def _matrix(data: list[Any], rows: list[Any], columns: list[Any], shape: tuple[int, int]) -> Any:
    places = (np.concatenate(rows), np.concatenate(columns))
    matrix = sparse.csr_array((np.concatenate(data), places), shape)
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    return matrix


def met(intervals: Sequence[Interval]) -> Interval:
    """What lies in all of them."""
    lower = torch.stack([i.lower for i in intervals]).amax(0)
    upper = torch.stack([i.upper for i in intervals]).amin(0)
    # bounds that have met may cross by float noise
    return Interval(torch.minimum(lower, upper), torch.maximum(lower, upper))
