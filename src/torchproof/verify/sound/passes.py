"""One way forward through a graph, layer by layer: intervals that hold in real arithmetic.

An interval in the middle is that of intervals moved through the operation before it, with more on
either side than the rounding of that, or that of a walk back, whose error is taken off. Lines are
drawn from intervals that hold already and hold exactly themselves (`lines`), so that whatever walks
through them needs to pay for its own rounding only: by induction over the layers every interval
holds, and so do margins less their error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor

from torchproof.verify import bounds, linear
from torchproof.verify.bounds import Bound, sought
from torchproof.verify.clock import look
from torchproof.verify.graph import Graph, Node, Values, bind
from torchproof.verify.inputs import InputSet
from torchproof.verify.interval import Interval
from torchproof.verify.operators import AFFINE, nonlinear, relaxation
from torchproof.verify.relax import Hinge, Relaxation
from torchproof.verify.sound.affine import affine, inexact, magnitude
from torchproof.verify.sound.constants import doubts
from torchproof.verify.sound.lines import exact_lines, exact_range
from torchproof.verify.sound.rounding import TINY, charge, outward, size, wider
from torchproof.verify.sound.search import searched
from torchproof.verify.sound.walk import Sum, Walk
from torchproof.verify.starts import at_once

Settle = Callable[[Interval], Interval]
Told = Callable[[str, tuple[Tensor, ...], dict[str, Tensor]], dict[str, Tensor]]
"""From a node, the places (R,) of entries of its answers, and slopes for walks back from these
entries and then from their negatives, (2 R, ...) each, to the slopes to be taken."""


@dataclass
class Pass:
    """intervals: of every live node; curved: nonlinear nodes; constants: answers of the others;
    told: hears of slopes that bound what nodes in the middle read.
    """

    bound: Bound
    walk: Walk
    constants: Values
    doubts: dict[str, Any]
    told: Told | None = None
    intervals: dict[str, Interval] = field(default_factory=dict)
    curved: set[str] = field(default_factory=set)

    @classmethod
    def of(
        cls, graph: Graph, inside: InputSet, bound: Bound, settle: Settle = lambda found: found,
        told: Told | None = None,
    ) -> Pass:  # fmt: skip
        """settle: widens intervals before nonlinear nodes, before lines are drawn from them."""
        walk = Walk.of(graph, inside)
        constants = {k: v for k, v in graph.run(inside.x).items() if k not in graph.live}
        made = cls(bound, walk, constants, doubts(graph, constants)[0], told)
        made._know(graph.input, outward(walk.inside.box()))
        for node in graph.nodes:
            if node.name in graph.live:
                look()
                if nonlinear(node, graph):
                    made._bend(node, settle)
                else:
                    made._move(node)
        return made

    def usual(self) -> bounds.Pass:
        """The same intervals, with lines as they are drawn where rounding is not paid for."""
        graph = self.walk.graph
        walk = linear.Walk.of(graph, self.walk.inside)
        for node in graph.nodes:
            if node.name in self.curved:
                known = relaxation(node, self._arguments(node))
                inputs = [self.intervals[name] for name in graph.inputs(node)]
                walk.hold(node, known.lines(inputs), known.free(inputs))
        return bounds.Pass(self.bound, walk, self.intervals, self.curved)

    def lower(self, rows: Tensor, slopes: Mapping[str, Tensor] | None = None) -> Sum:
        """(B, S) lower bounds of the rows (B, S, K) of the answer, and their errors; slopes: as in
        `Walk.lower`, (B, S, ...).
        """
        (many, count), most = rows.shape[:2], at_once(cast(Any, self.walk))
        start = rows.view(many, count, *self.walk.single[self.walk.graph.output].shape[1:])
        value, error = start.new_empty(many, count), start.new_empty(many, count)
        for part in torch.split(torch.arange(many, device=rows.device), most):
            each = max(1, most // len(part))  # rows of every example at once
            for some in torch.split(torch.arange(count, device=rows.device), each):
                mine = {name: _round(s, part, some) for name, s in (slopes or {}).items()}
                example = part.repeat(len(some))
                found = self._last(_round(start, part, some), example, mine)
                place = (part[:, None], some)
                value[place], error[place] = (t.view(len(some), -1).T for t in found)
        return Sum(value, error)

    def _last(self, rows: Tensor, example: Tensor, slopes: dict[str, Tensor]) -> Sum:
        start = {self.walk.graph.output: rows}
        stops = {n: v for n, v in self.intervals.items() if n in self.curved}
        if self.bound.last == "interval":
            return self.walk.lower(start, example, stops)
        found = self.walk.lower(start, example, slopes=slopes)
        if self.bound.meet:
            found = better(found, self.walk.lower(start, example, stops))
        return found

    def _know(self, name: str, found: Interval) -> None:
        self.intervals[name] = found
        known = self.walk.sizes.get(name)
        self.walk.sizes[name] = size(found) if known is None else torch.minimum(known, size(found))

    def _move(self, node: Node) -> None:
        """An affine node: what its sums lose, forward and backward, is at most what `magnitude`
        says, times the charge of their length; intervals as centre and radius take two sums.
        """
        known = affine(node, self.walk.graph, self.walk.single)
        sizes = {name: self.walk.sizes[name] for name in self.walk.graph.inputs(node)}
        most = magnitude(node, sizes, self.constants)
        off = inexact(node, sizes, self.constants, self.doubts)
        found = AFFINE[node.kind](node, self._arguments(node))
        if known.forward:
            found = wider(found, 2 * charge(2 * known.forward + 16) * most + TINY)
        if off is not None:
            found = wider(found, 2 * off)
        self.walk.pass_on(node, known, most, off)
        self._know(node.name, found)

    def _bend(self, node: Node, settle: Settle) -> None:
        known = relaxation(node, self._arguments(node))
        if self.bound.parallel and isinstance(known, Hinge):
            known = replace(known, parallel=True)
        names = self.walk.graph.inputs(node)
        for name in names:
            self._tighten(name, known)
            self._know(name, settle(self.intervals[name]))
        inputs = [self.intervals[name] for name in names]
        self.walk.hold(node, exact_lines(known, inputs), known.free(inputs))
        self.curved.add(node.name)
        self._know(node.name, exact_range(known, inputs))

    def _arguments(self, node: Node) -> Sequence[Any]:
        values: Values = {**self.constants, **self.intervals}
        found: Sequence[Any] = bind(node.args, values)
        return found

    def _tighten(self, name: str, known: Relaxation) -> None:
        """Walks back from the entries for which it may make a difference, as `bounds.Pass` does."""
        before = self.intervals[name]
        open_ = sought(self.walk.graph, name, before, known, self.bound, self.walk.inside)
        if open_ is not None:
            meet = self.bound.meet or known.bounded
            self._know(name, self._walked(name, before, open_, meet))

    def _walked(self, name: str, before: Interval, open_: Tensor, meet: bool) -> Interval:
        lower, upper = before.lower.clone(), before.upper.clone()
        if not bool(open_.any()):
            return before
        open_, whole = open_.expand(lower.shape), self.told is not None
        for around, rows, example, places in self.walk.starts(name, open_, whole):
            walk, many = cast(Walk, around), len(rows)
            both, twice = {name: torch.cat([rows, -rows])}, example.repeat(2)
            slopes = searched(walk, both, twice, self.bound.middle_steps)
            if self.told is not None and slopes:
                slopes = self.told(name, places, slopes)
            found = walk.lower(both, twice, slopes=slopes)
            ends = found.value - found.error - charge(2) * found.value.abs()
            lower[places], upper[places] = ends[:many], -ends[many:]
            if walk is not self.walk:
                self.walk.walked += walk.walked
        after = Interval(lower, upper)
        return after.meet(before) if meet else after


def _round(rows: Tensor, part: Tensor, some: Tensor) -> Tensor:
    """Of rows (B, S, ...) these, in an order that goes round the examples."""
    return rows[part][:, some].transpose(0, 1).flatten(0, 1)


def better(one: Sum, two: Sum) -> Sum:
    """The larger of two bounds, entry by entry."""
    first = one.value - one.error >= two.value - two.error
    return Sum(*(torch.where(first, a, b) for a, b in zip(one, two, strict=True)))
