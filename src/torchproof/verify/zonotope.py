"""Zonotopes (DeepZ, Singh et al. 2018): every value is a centre plus noise that values share.

Here a value is c + J d + G e: d is the perturbation itself, anywhere in the input set, and e one
number in [-1, 1] for every entry of a nonlinear operation that needs one. With d in a box this is
the zonotope of the paper; for other norms what J d adds is bounded over the ball cut with the pixel
box, exactly, so that nothing is lost to a bounding box.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from torchproof.core.threats import AnyThreat
from torchproof.verify.bounds import graph_of
from torchproof.verify.clock import look
from torchproof.verify.forward import forwarded, hold_noise
from torchproof.verify.graph import Graph, Node, Values, bind
from torchproof.verify.inputs import InputSet, rows_of
from torchproof.verify.interval import Interval
from torchproof.verify.memory import entries, hold
from torchproof.verify.operators import AFFINE, nonlinear, relaxation
from torchproof.verify.strips import strip

ROWS = 4096  # bounded over the input set at once

Refine = Callable[[Node, dict[str, Interval]], None]
"""Told of a nonlinear node and of the intervals so far, may put better ones in their place."""


@dataclass(frozen=True)
class Zonotope:
    """centre (B, ...); noise: by the node that brought it in, coefficients (B, symbols, ...), of
    the entries of d for the graph's input (there B may be 1), else of numbers in [-1, 1].
    """

    centre: Tensor
    noise: dict[str, Tensor]


def margins(
    model: nn.Module | Graph, x: Tensor, y: Tensor, threat: AnyThreat, meet: bool = True
) -> Tensor:
    """(B, K - 1) lower bounds of z_y - z_t over the threat around x (B, C, H, W), t != y in order.

    meet: bounds in the middle are intersected with intervals; without it, the method of the paper.
    Computed in the dtype of the model; float rounding is not accounted for. Raises ModelError for
    operations without a rule.
    """
    graph = model if isinstance(model, Graph) else graph_of(model, x)
    with torch.no_grad():
        single = graph.run(x[:1])
        largest = max(single[name].numel() for name in graph.live)
        count = max(1, entries() // (x[0].numel() * largest))
        whole, parts = InputSet.of(x, threat), []
        for rows in torch.split(torch.arange(len(x), device=x.device), count):
            sweep = Sweep.of(graph, whole.take(rows), meet)
            classes = sweep.zonotopes[graph.output].centre.shape[-1]
            parts.append(sweep.lower(rows_of(y[rows], classes).to(x.dtype)))
        return torch.cat(parts)


@dataclass
class Sweep:
    """A graph walked once forward over a set. intervals: of every live node, intersected with the
    zonotope's before nonlinear ones; reference, single: answers to all examples, and to the first;
    refine: called before every nonlinear node.
    """

    graph: Graph
    inside: InputSet
    meet: bool
    reference: Values
    single: Values
    refine: Refine | None = None
    zonotopes: dict[str, Zonotope] = field(default_factory=dict)
    intervals: dict[str, Interval] = field(default_factory=dict)

    @classmethod
    def of(
        cls, graph: Graph, inside: InputSet, meet: bool = True, refine: Refine | None = None
    ) -> Sweep:
        x = inside.x
        with torch.no_grad():
            made = cls(graph, inside, meet, graph.run(x), graph.run(x[:1]), refine)
        size = x[0].numel()
        unit = torch.eye(size, dtype=x.dtype, device=x.device).view(1, size, *x.shape[1:])
        made.zonotopes[graph.input] = Zonotope(x, {graph.input: unit})
        made.intervals[graph.input] = inside.box()
        live = [node for node in graph.nodes if node.name in graph.live]
        last = {name: node.name for node in live for name in graph.inputs(node)}
        for node in live:
            look()
            names = graph.inputs(node)
            noise = (item for name in names for item in made.zonotopes[name].noise.items())
            hold_noise(noise, node, names, made.single)
            if nonlinear(node, graph):
                made._bend(node)
            else:
                made._map(node)
            for name in graph.inputs(node):
                if last[name] == node.name and name != graph.output:
                    del made.zonotopes[name]  # nobody reads it again
        return made

    def lower(self, rows: Tensor) -> Tensor:
        """(B, S) lower bounds of the rows (B, S, K) of the answer."""
        answer = self.zonotopes[self.graph.output]
        centre = torch.einsum("bsk,bk->bs", rows, answer.centre)
        batch = len(rows)
        noise = {
            name: torch.einsum("bsk,bmk->bms", rows, part.expand(batch, *part.shape[1:]))
            for name, part in answer.noise.items()
        }
        return self.range(Zonotope(centre, noise)).lower

    def range(self, z: Zonotope) -> Interval:
        """The least and the largest of every entry."""
        apart = [part.abs().sum(1) for name, part in z.noise.items() if name != self.graph.input]
        radius = torch.stack([torch.zeros_like(z.centre), *apart]).sum(0)
        batch, shape = len(z.centre), z.centre.shape
        given = z.noise[self.graph.input].flatten(2).transpose(1, 2)  # (B, entries, D)
        rows = given.expand(batch, *given.shape[1:]).reshape(-1, *self.inside.x.shape[1:])
        entries = given.shape[1]
        example = torch.arange(batch, device=rows.device).repeat_interleave(entries)
        low, high = [], []
        for part, of in zip(torch.split(rows, ROWS), torch.split(example, ROWS), strict=True):
            look()
            low.append(self.inside.lowest(part, of))
            high.append(-self.inside.lowest(-part, of))
        below, above = torch.cat(low).view(shape), torch.cat(high).view(shape)
        return Interval(z.centre + below - radius, z.centre + above + radius)

    def _map(self, node: Node) -> None:
        """Affine nodes: the operation on the centre, and its linear part on the coefficients."""
        names = self.graph.inputs(node)
        given = [self.zonotopes[name] for name in names]
        centres = dict(zip(names, (z.centre for z in given), strict=True))
        linear = forwarded(node, names, self.single)
        noise = {}
        for source in dict.fromkeys(name for z in given for name in z.noise):
            found = [z.noise[source] for z in given if source in z.noise]
            batch, symbols = max(len(part) for part in found), found[0].shape[1]
            parts = []
            for z in given:
                shape = (batch, symbols, *z.centre.shape[1:])
                part = z.noise.get(source, z.centre.new_zeros(()))
                parts.append(part.expand(shape).reshape(-1, 1, *shape[2:]))
            moved = linear(*parts)
            noise[source] = moved.reshape(batch, symbols, *moved.shape[2:])
        answer: Tensor = node.answer({**self.reference, **centres})
        self.zonotopes[node.name] = Zonotope(answer, noise)
        self.intervals[node.name] = AFFINE[node.kind](node, self._arguments(node))

    def _bend(self, node: Node) -> None:
        """Nonlinear nodes: slopes on the coefficients, and a number of its own for every entry."""
        names = self.graph.inputs(node)
        given = [self.zonotopes[name] for name in names]
        known = relaxation(node, self._arguments(node))
        for name, z in zip(names, given, strict=True):
            found, before = self.range(z), self.intervals[name]
            found = found.meet(before) if self.meet or known.bounded else found
            # bounds that have met may cross by float noise
            self.intervals[name] = Interval(
                torch.minimum(found.lower, found.upper), torch.maximum(found.lower, found.upper)
            )
        if self.refine is not None:
            self.refine(node, self.intervals)
        inputs = [self.intervals[name] for name in names]
        slopes, centre, radius = strip(known, inputs)
        spread = node.kind == "row_max"
        noise: dict[str, Tensor] = {}
        for z, k in zip(given, slopes, strict=True):
            centre = centre + _sloped(z.centre, k, spread)
            for source, part in z.noise.items():
                moved = _sloped(part, k.unsqueeze(1), spread)
                noise[source] = noise[source] + moved if source in noise else moved
        self.zonotopes[node.name] = Zonotope(centre, {**noise, node.name: columns(radius)})
        self.intervals[node.name] = known.range(inputs)

    def _arguments(self, node: Node) -> Sequence[Any]:
        found: Sequence[Any] = bind(node.args, {**self.reference, **self.intervals})
        return found


def _sloped(value: Tensor, slope: Tensor, spread: bool) -> Tensor:
    moved = value * slope
    return moved.sum(-1) if spread else moved


def columns(radius: Tensor) -> Tensor:
    """(B, m, ...) one coefficient per symbol, for the entries of radius (B, ...) that are not 0; m
    is the largest number of these in an example.
    """
    flat = radius.flatten(1)
    active = flat > 0
    count = int(active.sum(1).max()) if len(flat) else 0
    hold(len(flat) * count * flat.shape[1], "a zonotope")
    order = active.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :count]
    made = flat.new_zeros(len(flat), count, flat.shape[1])
    made = made.scatter(2, order.unsqueeze(2), flat.gather(1, order).unsqueeze(2))
    return made.view(len(flat), count, *radius.shape[1:])
