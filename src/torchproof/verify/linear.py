"""Linear bounds, walked backward through a graph (CROWN, Zhang et al. 2018, and its relatives).

Everything is a difference from the forward pass at a reference input: <row, node> - <row, ref>. So
affine operations have no offset, and their transpose, the vjp, is all that is asked of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from torchproof.verify.clock import look
from torchproof.verify.graph import Graph, Node, Values
from torchproof.verify.inputs import InputSet
from torchproof.verify.interval import Interval
from torchproof.verify.relax import Lines
from torchproof.verify.transpose import Transpose, transposed
from torchproof.verify.whose import Whose, products

_Slopes = tuple[tuple[Tensor, ...], Tensor]  # per live input, and what the lines have beside them


@dataclass(frozen=True)
class Held:
    """Lines of a nonlinear node, seen from the reference: slopes per live input, (B, ...), and what
    the lines are above the answer there. free: the least slope (B, ...) of lower lines through 0,
    NaN where there is no choice; None where there is none at all. Any slope from it to 1 holds.
    """

    low: tuple[Tensor, ...]
    low_at: Tensor
    high: tuple[Tensor, ...]
    high_at: Tensor
    free: Tensor | None = None


@dataclass
class Walk:
    """Walks back through `graph` from rows at any node; inside: where the inputs may be.

    reference: the answer of every node to inside.x; single: to one input alone; walked: rows so
    far. `hold` a nonlinear node's lines before a walk passes it.
    """

    graph: Graph
    inside: InputSet
    reference: Mapping[str, Any]
    single: Values
    lines: dict[str, Held] = field(default_factory=dict)
    walked: int = 0
    transposes: dict[str, Transpose] = field(default_factory=dict)

    @classmethod
    def of(cls, graph: Graph, inside: InputSet) -> Walk:
        return cls(graph, inside, graph.run(inside.x), graph.run(inside.x[:1]))

    def hold(self, node: Node, lines: Lines, free: Tensor | None = None) -> None:
        """Keeps a node's lines; free as in `Held`."""
        at = [self.reference[name] for name in self.graph.inputs(node)]
        answer = self.reference[node.name]
        spread = self.spread(node)
        low_at = _evaluated(lines.low, at, lines.low_at, spread) - answer
        high_at = _evaluated(lines.high, at, lines.high_at, spread) - answer
        self.lines[node.name] = Held(lines.low, low_at, lines.high, high_at, free)

    def spread(self, node: Node) -> bool:
        """Has the answer one axis less than the input?"""
        return node.kind == "row_max"

    def lower(
        self,
        start: Mapping[str, Tensor],
        example: Tensor,
        stop: Mapping[str, Interval] | None = None,
        slopes: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """(R,) lower bounds of sum_n <start[n][r], n> over the inputs allowed around example[r]; as
        in `plane`.
        """
        total, at_input = self.plane(start, example, stop, slopes)
        return total if at_input is None else total + self.inside.lowest(at_input, example)

    def plane(
        self,
        start: Mapping[str, Tensor],
        example: Tensor,
        stop: Mapping[str, Interval] | None = None,
        slopes: Mapping[str, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """(R,) values c and rows a (R, ...) with sum_n <start[n][r], n> >= c + <a, d> for every
        perturbation d of the input of example[r]; None for rows that the input has no part in.

        start: node -> rows (R, *shape of its answer); stop: nodes that are taken to be anywhere in
        an interval (B, ...), instead of being followed to the input; slopes: node -> (R, ...) in
        [0, 1], where between the free slope and 1 each row's own lower lines lie. Raises OutOfTime
        where a limit on time is over.
        """
        rows = dict(start)
        whose = Whose.of(example, len(self.reference[next(iter(rows))]))
        parts = [whose.products(row, self.reference[name]) for name, row in rows.items()]
        total = torch.stack(parts).sum(0)
        self.walked += len(example)
        for node in reversed(self.graph.nodes):
            if node.name not in rows:
                continue
            look()
            row = rows.pop(node.name)
            if stop is not None and node.name in stop:
                total = total + self._anywhere(row, node.name, stop[node.name], whose)
            elif node.name in self.lines:
                own = None if slopes is None else slopes.get(node.name)
                total = total + self._through(node, row, whose, rows, own)
            else:
                names = self.graph.inputs(node)
                for name, part in zip(names, self.transpose(node)(row), strict=True):
                    _add(rows, name, part)
        return total, rows.get(self.graph.input)

    def _anywhere(self, row: Tensor, name: str, where: Interval, whose: Whose) -> Tensor:
        low, high = where.lower - self.reference[name], where.upper - self.reference[name]
        return whose.products(row.clamp_min(0), low) + whose.products(row.clamp_max(0), high)

    def _through(
        self, node: Node, row: Tensor, whose: Whose, rows: dict[str, Tensor], own: Tensor | None
    ) -> Tensor:
        """Puts a nonlinear node's rows on its inputs; answers what the intercepts add."""
        held, names = self.lines[node.name], self.graph.inputs(node)
        row, spread = whose.round(row), self.spread(node)
        up, down = row.clamp_min(0), row.clamp_max(0)
        terms = [(up, held.low, held.low_at), (down, held.high, held.high_at)]
        if own is not None and held.free is not None:
            least, rest = self._from_free(node, held)
            terms = [(up, *least), terms[1], (up * whose.round(own), *rest)]
        added = torch.stack([products(part, whose(at)) for part, _, at in terms]).sum(0)
        for i, name in enumerate(names):
            total: Tensor | None = None
            for part, slopes, _ in terms:
                factor, slope = part.unsqueeze(-1) if spread else part, whose(slopes[i])
                total = factor * slope if total is None else total.addcmul(factor, slope)
            assert total is not None
            flat = total.flatten(0, 1)
            _add(rows, name, flat.sum_to_size(len(flat), *self.single[name].shape[1:]))
        return added.flatten()

    def _from_free(self, node: Node, held: Held) -> tuple[_Slopes, _Slopes]:
        """Slopes and intercepts of the lower lines where the slope is the free one; and how much is
        above these where it is 1.
        """
        assert held.free is not None
        z, answer = (self.reference[name] for name in (*self.graph.inputs(node), node.name))
        closed, free = held.free.isnan(), held.free.nan_to_num(1.0)
        low = torch.where(closed, held.low[0], free)
        low_at = torch.where(closed, held.low_at, free * z - answer)
        return ((low,), low_at), ((1 - free,), (1 - free) * z)

    def transpose(self, node: Node) -> Transpose:
        """Rows at an affine node's answer to rows at its live inputs."""
        if node.name not in self.transposes:
            made = transposed(node, self.graph.inputs(node), self.single)
            self.transposes[node.name] = made
        return self.transposes[node.name]


def _evaluated(
    slopes: tuple[Tensor, ...], at: list[Any], intercept: Tensor, spread: bool
) -> Tensor:
    total = intercept
    for slope, z in zip(slopes, at, strict=True):
        part = slope * z
        total = total + (part.sum(-1) if spread else part)
    return total


def _add(rows: dict[str, Tensor], name: str, part: Tensor) -> None:
    rows[name] = rows[name] + part if name in rows else part
