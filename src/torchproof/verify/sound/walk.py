"""A walk back through a graph in float64 that pays for every rounding it makes.

Rows are taken as the float64 numbers they are. At a node v = L z + b with the row A, the transposed
row A' = fl(L^T A) is not L^T A, but then <A, v> = <A', z> + <A, b> + <L^T A - A', z> in real
arithmetic, and the last part is at most gamma_n <|L|^T |A|, |z|> = gamma_n <|A|, |L| |z|>. |L| |z|
is one forward pass with absolute weights on the largest |z| for each example, so a row pays for an
operation with one dot product. The walk goes on from A' as if nothing had happened.

At a nonlinear node the lines hold exactly, so that only the products with them are paid for, in the
same way; at the input the concretisation is; and what is summed up is paid for at each step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from torchproof.core.sets import Ball
from torchproof.verify.clock import look
from torchproof.verify.graph import Graph, Node, Values
from torchproof.verify.inputs import InputSet
from torchproof.verify.interval import Interval
from torchproof.verify.relax import Lines
from torchproof.verify.sound.affine import Affine
from torchproof.verify.sound.rounding import TINY, charge, size
from torchproof.verify.starts import Start, at_once, starts
from torchproof.verify.transpose import Transpose, transposed
from torchproof.verify.whose import Whose, products
from torchproof.verify.window import Places
from torchproof.verify.windows import Windows


class Sum(NamedTuple):
    """(R,) values, and how far they may be above what holds."""

    value: Tensor
    error: Tensor

    @property
    def sure(self) -> Tensor:
        """(R,) what holds, rounded once more."""
        return self.value - self.error - charge(2) * self.value.abs()

    def plus(self, part: Tensor, error: Tensor | float = 0.0) -> Sum:
        value = self.value + part
        return Sum(value, self.error + (error + charge(2) * value.abs()))

    def paid(self, error: Tensor) -> Sum:
        return Sum(self.value, self.error + error)


class Held(NamedTuple):
    """Exact lines of a nonlinear node, and free as in `linear.Held`."""

    lines: Lines
    free: Tensor | None

    @property
    def low(self) -> tuple[Tensor, ...]:
        return self.lines.low


@dataclass
class Walk:
    """inside: where inputs may be, widened by the rounding of its ends; sizes: the largest |entry|
    (B, ...) of live nodes there; doubt: what a row pays at a node for each of its |entries|, (B,
    ...), where it pays at all; offset: values (B, ...) of affine nodes at 0; single: answers to one
    input. Nodes are added in their order.
    """

    graph: Graph
    inside: InputSet
    single: Values
    sizes: dict[str, Tensor] = field(default_factory=dict)
    doubt: dict[str, Tensor] = field(default_factory=dict)
    offset: dict[str, Tensor] = field(default_factory=dict)
    lines: dict[str, Held] = field(default_factory=dict)
    transposes: dict[str, Transpose] = field(default_factory=dict)
    walked: int = 0

    @classmethod
    def of(cls, graph: Graph, inside: InputSet) -> Walk:
        ball, out = inside.ball, 1 + charge(2)
        wide = replace(ball, floor=ball.floor * out, ceiling=ball.ceiling * out)
        return cls(graph, InputSet(inside.x, wide), graph.run(inside.x[:1]))

    def pass_on(self, node: Node, known: Affine, most: Tensor, off: Tensor | None) -> None:
        """Adds an affine node; most: `magnitude`; off: `inexact`."""
        self.transposes[node.name] = known.transpose
        paid = []
        if known.backward:
            paid.append(charge(known.backward) * most)
        if known.offset is not None:
            self.offset[node.name] = known.offset.expand_as(most)
            paid.append((charge(known.offset.numel() + 2) * known.offset.abs()).expand_as(most))
        if off is not None:
            paid.append(2 * off.expand_as(most))
        if paid:
            self.doubt[node.name] = torch.stack(paid).sum(0)

    def hold(self, node: Node, lines: Lines, free: Tensor | None) -> None:
        """Adds a nonlinear node."""
        self.lines[node.name] = Held(lines, free)
        spread, total, times = self._spread(node), torch.zeros_like(lines.low_at), 1
        for low, high, name in zip(lines.low, lines.high, self.graph.inputs(node), strict=True):
            steepest = torch.maximum(low.abs(), high.abs())
            if free is not None:
                steepest = steepest.clamp_min(1.0)  # what a row's own slope is at most
            part = steepest * self.sizes[name]
            total = total + (part.sum(-1) if spread else part)
            times = max(times, -(-total.numel() // self.sizes[name].numel()))
        at = torch.maximum(lines.low_at.abs(), lines.high_at.abs())
        self.doubt[node.name] = charge(times + 2) * total + charge(at[0].numel() + 4) * at

    def lower(
        self, start: Mapping[str, Tensor], example: Tensor,
        stop: Mapping[str, Interval] | None = None, slopes: Mapping[str, Tensor] | None = None,
    ) -> Sum:  # fmt: skip
        """(R,) lower bounds of sum_n <start[n][r], n> over the inputs allowed around example[r].

        start, example, stop, slopes: as in `linear.Walk.plane`. In real arithmetic, value - error
        holds.
        """
        rows, stop, slopes = dict(start), stop or {}, slopes or {}
        whose = Whose.of(example, len(self.inside.x))
        first = next(iter(rows.values()))
        zero = first.new_zeros(len(first))
        self.walked += len(zero)
        total = Sum(zero, zero + TINY)
        below: Sequence[Tensor]
        for node in reversed(self.graph.nodes):
            if node.name not in rows:
                continue
            look()
            row = rows.pop(node.name)
            if node.name in stop:
                total = _anywhere(total, row, stop[node.name], whose)
                continue
            if node.name in self.doubt:
                total = total.paid(whose.products(row.abs(), self.doubt[node.name]))
            if node.name in self.lines:
                below, added = self._through(node, row, whose, slopes.get(node.name))
                total = total.plus(added)
            else:
                below = self._back(node)(row)
                if node.name in self.offset:
                    total = total.plus(whose.products(row, self.offset[node.name]))
            for name, part in zip(self.graph.inputs(node), below, strict=True):
                if name in rows:  # joined rows are rounded once more
                    part = rows[name] + part
                    total = total.paid(charge(1) * whose.products(part.abs(), self.sizes[name]))
                rows[name] = part
        at_input = rows.get(self.graph.input)
        return total if at_input is None else self._at_input(total, at_input, example, whose)

    def starts(self, name: str, open_: Tensor, whole: bool = False) -> Iterator[Start]:
        """As `starts.starts`: where walks begin that bound the open entries (B, ...) of a node;
        whole: never through windows.
        """
        windows = None if whole else Windows.of(cast(Any, self), name)
        if windows is None:
            return starts(cast(Any, self), name, open_, whole)
        found = Shown(**vars(windows)).starts(cast(Any, self), open_, at_once(windows))
        return (Start(*start) for start in found)

    def _back(self, node: Node) -> Transpose:
        if node.name not in self.transposes:
            made = transposed(node, self.graph.inputs(node), self.single)
            self.transposes[node.name] = made
        return self.transposes[node.name]

    def _through(
        self, node: Node, row: Tensor, whose: Whose, own: Tensor | None
    ) -> tuple[Sequence[Tensor], Tensor]:
        """Rows at a nonlinear node's inputs, and what the intercepts add."""
        (lines, free), row = self.lines[node.name], whose.round(row)
        up, down = row.clamp_min(0), row.clamp_max(0)
        low, low_at = [whose(slope) for slope in lines.low], whose(lines.low_at)
        if own is not None and free is not None:
            closed, least = whose(free.isnan()), whose(free.nan_to_num(1.0))  # no NaN in gradients
            chosen = least + (1 - least) * whose.round(own)
            if not chosen.requires_grad:  # a search's gradients would be halved at the end
                chosen = torch.maximum(chosen, least).clamp_max(1.0)
            low = [torch.where(closed, low[0], chosen)]
            low_at = torch.where(closed, low_at, 0.0)
        added = products(up, low_at) + products(down, whose(lines.high_at))
        if self._spread(node):
            up, down = up.unsqueeze(-1), down.unsqueeze(-1)
        parts = []
        for below, above, name in zip(low, lines.high, self.graph.inputs(node), strict=True):
            part = (up * below + down * whose(above)).flatten(0, 1)
            parts.append(part.sum_to_size(len(part), *self.single[name].shape[1:]))
        return parts, added.flatten()

    def _at_input(self, total: Sum, row: Tensor, example: Tensor, whose: Whose) -> Sum:
        """<row, x + d> for the worst d. Whatever multiplier or order `InputSet.lowest` settles on,
        its answer is off by no more than roundings of |row| times a coordinate's reach or the
        radius.
        """
        x, ball, count, far = self.inside.x, self.inside.ball, row[0].numel(), row.abs()
        total = total.plus(whose.products(row, x), charge(count + 2) * whose.products(far, x.abs()))
        radius = ball.radius.nan_to_num(0.0, 0.0, 0.0).view(-1, *[1] * (row.dim() - 1))
        reach = torch.maximum(ball.ceiling, -ball.floor) + radius
        noise = charge(4 * count + 64) * whose.products(far, reach)
        return total.plus(self.inside.lowest(row, example), noise)

    def _spread(self, node: Node) -> bool:
        """Has the answer one axis less than the input?"""
        return node.kind == "row_max"


class Shown(Windows):
    """Windows that a walk in sound arithmetic goes through: what it has is cut out for them.

    Cutting rounds nothing. A window beyond the map sees zeros: no offset, no doubt, no line.
    """

    def around(self, walk: Any, places: Places) -> Any:
        def cut(values: Tensor, name: str, outside: float = 0.0) -> Tensor:
            return self.shown[name][1].cut(values, places, outside)

        made = Walk(self.graph, _cut_set(walk.inside, partial(cut, name=self.graph.input), places),
                    self.single, transposes=self.transposes)  # fmt: skip
        for node in self.graph.nodes:
            name, source = node.name, self.shown[node.name][0]
            if node.kind == CROP:
                continue
            if name in self.masked:
                mask = cut(torch.ones_like(walk.sizes[name]), name)
                zero = torch.zeros_like(mask)
                made.lines[name] = Held(Lines((mask,), zero, (mask,), zero), None)
            elif source in walk.lines:
                (lines, free), sides = walk.lines[source], partial(cut, name=name)
                low, high = (tuple(map(sides, slopes)) for slopes in (lines.low, lines.high))
                held = Lines(low, sides(lines.low_at), high, sides(lines.high_at))
                made.lines[name] = Held(held, None if free is None else sides(free, outside=NAN))
            for whole, part in ((walk.doubt, made.doubt), (walk.offset, made.offset)):
                if name not in self.masked and source in whole:
                    part[name] = cut(whole[source], name)
        for name, (source, _) in self.shown.items():
            made.sizes[name] = cut(walk.sizes[source], name)
        return made


CROP, NAN = "slice", float("nan")  # what `Windows` adds where a node reads a part of a window


def _cut_set(inside: InputSet, cut: Callable[[Tensor], Tensor], places: Places) -> InputSet:
    ball = inside.ball
    floor, ceiling = cut(ball.floor), cut(ball.ceiling)
    radius, scale = ball.radius[places.example], ball.scale[places.example]
    return InputSet(cut(inside.x), Ball(ball.norm, radius, scale, floor, ceiling, floor, ceiling))


def _anywhere(total: Sum, row: Tensor, where: Interval, whose: Whose) -> Sum:
    """What a node adds that is followed no further than to its interval."""
    low, high = row.clamp_min(0), row.clamp_max(0)
    worst = whose.products(low, where.lower) + whose.products(high, where.upper)
    return total.plus(worst, charge(row[0].numel() + 4) * whose.products(row.abs(), size(where)))
