"""Intervals that hold every entry of the Jacobian, everywhere in a ball."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from torchproof.core.norms import Norm
from torchproof.core.sets import Ball
from torchproof.verify.bounds import BOUNDS, Pass
from torchproof.verify.clock import look
from torchproof.verify.graph import Graph, Node, Values, bind
from torchproof.verify.inputs import InputSet
from torchproof.verify.interval import Interval
from torchproof.verify.lipschitz.slopes import slopes
from torchproof.verify.lipschitz.stretches import absolutely_transposed, transposed
from torchproof.verify.operators import nonlinear, relaxation
from torchproof.verify.transpose import Transpose

TINY = 1e-280


def ball(x: Tensor, norm: Norm, radius: Tensor) -> InputSet:
    """Everything within radius (B,) of x (B, ...), pixel box or not."""
    wide = torch.full_like(x, torch.inf)
    return InputSet(x, Ball.of(norm, radius, -wide, wide))


@dataclass
class Steepness:
    """Derivatives of every nonlinear node of a graph, (B, ...) per live input, on a set. shares: by
    node, what its roundings are of the absolute values that it adds up; none: not paid for.
    """

    graph: Graph
    single: Values
    slopes: dict[str, tuple[Interval, ...]]
    shares: Mapping[str, float] = field(default_factory=dict)
    _transposes: dict[str, tuple[Transpose, Transpose]] = field(default_factory=dict)

    @classmethod
    def of(cls, graph: Graph, inside: InputSet, method: str) -> Steepness:
        """With values bounded by the member `method` of the family (the last, of several)."""
        passed = Pass.of(graph, inside, BOUNDS[method][-1])
        values = {**passed.walk.reference, **passed.intervals}
        found = {}
        for node in graph.nodes:
            if node.name in graph.live and nonlinear(node, graph):
                inputs = [passed.intervals[name] for name in graph.inputs(node)]
                found[node.name] = slopes(relaxation(node, bind(node.args, values)), inputs)
        return cls(graph, graph.run(inside.x[:1]), found)

    def back(self, rows: Tensor, example: Tensor) -> Iterator[tuple[str, Interval]]:
        """Intervals (R, ...) of the derivative of <row, answer> by the answer of every live node,
        from the last to the graph's input; rows (R, K), over the set of example[r].

        Nonlinear nodes multiply intervals; through affine ones the centre moves as rows do, and the
        radius with absolute entries.
        """
        graph, found = self.graph, {self.graph.output: Interval(rows, rows)}
        for node in reversed(graph.nodes):
            if node.name not in found:
                continue
            look()
            given = found.pop(node.name)
            yield node.name, given
            parts = (
                self._through(node, given, example)
                if node.name in self.slopes
                else self._across(node, given)
            )
            for name, part in zip(graph.inputs(node), parts, strict=True):
                if name in found:
                    before = found[name]
                    part = Interval(before.lower + part.lower, before.upper + part.upper)
                    part = self._outward(part)
                found[name] = part
        if graph.input not in found:
            zero = rows.new_zeros(len(rows), *self.single[graph.input].shape[1:])
            found[graph.input] = Interval(zero, zero)
        yield graph.input, found[graph.input]

    def at_input(self, rows: Tensor, example: Tensor) -> Interval:
        """The interval Jacobian of <row, answer>, (R, *x)."""
        *_, (_, last) = self.back(rows, example)
        return last

    def _through(self, node: Node, given: Interval, example: Tensor) -> list[Interval]:
        parts = []
        for name, k in zip(self.graph.inputs(node), self.slopes[node.name], strict=True):
            ends = [given.lower, given.upper]
            if node.kind == "row_max":
                ends = [end.unsqueeze(-1) for end in ends]
            low, high = k.lower[example], k.upper[example]
            corners = torch.stack([end * side for end in ends for side in (low, high)])
            shape = (len(example), *self.single[name].shape[1:])
            ends = [corner.sum_to_size(shape) for corner in (corners.amin(0), corners.amax(0))]
            parts.append(self._outward(Interval(*ends)))
        return parts

    def _outward(self, z: Interval) -> Interval:
        """By more than a product, or a sum of two, may have been rounded, if that is paid for."""
        if not self.shares:
            return z
        noise = 8 * torch.finfo(z.lower.dtype).eps * torch.maximum(z.lower.abs(), z.upper.abs())
        return Interval(z.lower - noise - TINY, z.upper + noise + TINY)

    def _across(self, node: Node, given: Interval) -> list[Interval]:
        if node.name not in self._transposes:
            names = self.graph.inputs(node)
            both = (f(node, names, self.single) for f in (transposed, absolutely_transposed))
            straight, absolute = both
            self._transposes[node.name] = (straight, absolute)
        straight, absolute = self._transposes[node.name]
        radius = given.width / 2
        centres = straight(given.lower + radius)
        if not bool(radius.any()) and not self.shares:
            return [Interval(centre, centre) for centre in centres]
        radii = absolute(radius)
        if self.shares:  # of centres and radii, and of the rows' own ends
            far = absolute(torch.maximum(given.lower.abs(), given.upper.abs()))
            share = 4 * self.shares[node.name]
            radii = tuple(r + share * f + TINY for r, f in zip(radii, far, strict=True))
        return [Interval(c - r, c + r) for c, r in zip(centres, radii, strict=True)]
