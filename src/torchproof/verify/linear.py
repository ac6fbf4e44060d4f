"""Linear bounds, walked backward through a graph (CROWN, Zhang et al. 2018, and its relatives).

Everything is a difference from the forward pass at a reference input: <row, node> - <row, ref>. So
affine operations have no offset, and their transpose, the vjp, is all that is asked of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from torchproof.verify.graph import Graph, Node, Values, bind
from torchproof.verify.inputs import InputSet
from torchproof.verify.interval import Interval
from torchproof.verify.relax import Lines

Transpose = Callable[[Tensor], tuple[Tensor, ...]]


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

    reference: the answer of every node to inside.x; walked: rows so far. `hold` a nonlinear node's
    lines before a walk passes it.
    """

    graph: Graph
    inside: InputSet
    reference: Values
    lines: dict[str, Held] = field(default_factory=dict)
    walked: int = 0
    _single: Values = field(default_factory=dict)
    _transposes: dict[str, Transpose] = field(default_factory=dict)

    @classmethod
    def of(cls, graph: Graph, inside: InputSet) -> Walk:
        with torch.no_grad():
            single = graph.run(inside.x[:1])
        return cls(graph, inside, graph.run(inside.x), _single=single)

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
        [0, 1], where between the free slope and 1 each row's own lower lines lie.
        """
        rows = dict(start)
        self.walked += len(example)
        total = torch.zeros_like(next(iter(rows.values())).flatten(1)[:, 0])
        for name, row in rows.items():
            total = total + (row * self.reference[name][example]).flatten(1).sum(1)
        for node in reversed(self.graph.nodes):
            if node.name not in rows:
                continue
            row = rows.pop(node.name)
            if stop is not None and node.name in stop:
                total = total + self._anywhere(row, node.name, stop[node.name], example)
            elif node.name in self.lines:
                own = None if slopes is None else slopes.get(node.name)
                total = total + self._through(node, row, example, rows, own)
            else:
                for name, part in zip(
                    self.graph.inputs(node), self._transpose(node)(row), strict=True
                ):
                    _add(rows, name, part)
        return total, rows.get(self.graph.input)

    def _anywhere(self, row: Tensor, name: str, where: Interval, example: Tensor) -> Tensor:
        reference = self.reference[name][example]
        low, high = where.lower[example] - reference, where.upper[example] - reference
        worst: Tensor = row.clamp_min(0) * low + row.clamp_max(0) * high
        return worst.flatten(1).sum(1)

    def _through(
        self, node: Node, row: Tensor, example: Tensor, rows: dict[str, Tensor], own: Tensor | None
    ) -> Tensor:
        """Puts a nonlinear node's rows on its inputs; answers what the intercepts add."""
        held, names = self.lines[node.name], self.graph.inputs(node)
        up, down = row.clamp_min(0), row.clamp_max(0)
        low, low_at = [slope[example] for slope in held.low], held.low_at[example]
        if own is not None and held.free is not None:
            free = held.free[example]
            chosen, open_ = free + (1 - free) * own, ~free.isnan()
            z, answer = self.reference[names[0]][example], self.reference[node.name][example]
            low = [torch.where(open_, chosen, low[0])]
            low_at = torch.where(open_, chosen * z - answer, low_at)
        added: Tensor = up * low_at + down * held.high_at[example]
        if self.spread(node):
            up, down = up.unsqueeze(-1), down.unsqueeze(-1)
        for i, name in enumerate(names):
            part = up * low[i] + down * held.high[i][example]
            _add(rows, name, part.sum_to_size(len(row), *self.reference[name].shape[1:]))
        return added.flatten(1).sum(1)

    def _transpose(self, node: Node) -> Transpose:
        """Rows at an affine node's answer to rows at its live inputs."""
        if node.name not in self._transposes:
            self._transposes[node.name] = self._transposed(node)
        return self._transposes[node.name]

    def _transposed(self, node: Node) -> Transpose:
        names = self.graph.inputs(node)
        points = tuple(torch.zeros_like(self._single[name]) for name in names)

        def affine(*values: Tensor) -> Tensor:
            known = {**self._single, **dict(zip(names, values, strict=True))}
            answer: Tensor = node.call(*bind(node.args, known))
            return answer

        back = torch.func.vjp(affine, *points)[1]
        many = torch.func.vmap(back)

        def transpose(rows: Tensor) -> tuple[Tensor, ...]:
            return tuple(part[:, 0] for part in many(rows[:, None]))

        return transpose


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
