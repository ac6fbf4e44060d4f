"""Zonotopes, and hybrid ones, that hold in real arithmetic (`zonotope`, `hybrid`).

A value is c + J d + G e + what its entries have for themselves: a box, and what rounding may have
moved. Centre and coefficients are taken as the float64 numbers that they are. An affine node L maps
them to fl(L c), fl(L J), fl(L G), which together are off by at most gamma_n |L| times the sum of
their absolute values, reach of d included: one pass with absolute weights for all symbols. What was
lost before is moved by |L|. Strips around nonlinear operations hold exactly (`strips`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from torchproof.verify.clock import look
from torchproof.verify.forward import forwarded, hold_noise
from torchproof.verify.graph import Graph, Node, Values, bind
from torchproof.verify.inputs import InputSet, rows_of
from torchproof.verify.interval import Interval
from torchproof.verify.memory import entries
from torchproof.verify.operators import nonlinear, relaxation
from torchproof.verify.sound.affine import Affine, affine, inexact, linear, magnitude, spread
from torchproof.verify.sound.constants import doubts
from torchproof.verify.sound.rounding import TINY, charge, outward, wider
from torchproof.verify.sound.strips import exact_strip, shared
from torchproof.verify.sound.walk import Sum, Walk
from torchproof.verify.zonotope import ROWS, columns

Kind = Literal["deepz", "hybrid"]


@dataclass(frozen=True)
class Form:
    """centre (B, ...); noise: by the node that brought it in, coefficients (B, symbols, ...), of d
    for the graph's input (there B may be 1), else of numbers in [-1, 1]; box, lost (B, ...) >= 0:
    what an entry may be away from there, by itself and by rounding.
    """

    centre: Tensor
    noise: dict[str, Tensor]
    box: Tensor
    lost: Tensor


@dataclass
class Sweep:
    """A graph walked once forward; inside: widened by the rounding of its ends; reach: how far
    entries of d may be (B, D).
    """

    graph: Graph
    inside: InputSet
    kind: Kind
    single: Values
    constants: Values
    doubts: dict[str, Any]
    reach: Tensor
    forms: dict[str, Form] = field(default_factory=dict)
    known: dict[str, Affine] = field(default_factory=dict)

    @classmethod
    def of(cls, graph: Graph, inside: InputSet, kind: Kind) -> Sweep:
        inside = Walk.of(graph, inside).inside
        if kind == "hybrid":  # the smallest box around the set
            around = outward(inside.box())
            inside = Walk.of(graph, InputSet.between(around.lower, around.upper)).inside
        x, ball = inside.x, inside.ball
        constants = {k: v for k, v in graph.run(x).items() if k not in graph.live}
        reach = torch.maximum(ball.ceiling, -ball.floor).flatten(1)
        made = cls(graph, inside, kind, graph.run(x[:1]), constants, doubts(graph, constants)[0],
                   reach)  # fmt: skip
        size, zero = x[0].numel(), torch.zeros_like(x)
        unit = torch.eye(size, dtype=x.dtype, device=x.device).view(1, size, *x.shape[1:])
        made.forms[graph.input] = Form(x, {graph.input: unit}, zero, zero)
        live = [node for node in graph.nodes if node.name in graph.live]
        last = {name: node.name for node in live for name in graph.inputs(node)}
        for node in live:
            look()
            names = graph.inputs(node)
            noise = (item for name in names for item in made.forms[name].noise.items())
            hold_noise(noise, node, names, made.single)
            step = made._bend if nonlinear(node, graph) else made._map
            made.forms[node.name] = step(node)
            for name in graph.inputs(node):
                if last[name] == node.name and name != graph.output:
                    made.forms[name] = replace(made.forms[name], noise={})  # not read again
        return made

    def lower(self, rows: Tensor) -> Sum:
        """(B, S) lower bounds of the rows (B, S, K) of the answer, and their errors. Boxes are
        merged into the last layers: they count by what the rows are where they came in.
        """
        answer, count = self.forms[self.graph.output], rows.shape[-1]
        noise = {
            name: torch.einsum("bsk,bmk->bms", rows, part.expand(len(rows), *part.shape[1:]))
            for name, part in answer.noise.items()
        }
        sizes = torch.stack([self._size(answer) + answer.box, answer.box, answer.lost], -1)
        size, box, lost = (rows.abs() @ sizes).unbind(-1)
        centre, zero = torch.einsum("bsk,bk->bs", rows, answer.centre), torch.zeros_like(box)
        found, error = self._ends(Form(centre, noise, zero, zero), symmetric=False)
        value = found.lower - self._boxes(rows)
        error = error + lost + charge(count + 8) * size + charge(self._terms()) * box
        return Sum(value, error + charge(4) * value.abs() + TINY)

    def range(self, z: Form) -> Interval:
        """The least and the largest of every entry."""
        found, error = self._ends(z)
        return outward(wider(found, error + z.box + z.lost))

    def _ends(self, z: Form, symmetric: bool = True) -> tuple[Interval, Tensor]:
        """What centre and noise make, and how far it may be off; upper ends if `symmetric`."""
        apart = {n: part for n, part in z.noise.items() if n != self.graph.input}
        radius = torch.zeros_like(z.centre)
        for part in apart.values():
            radius = radius + part.abs().sum(1)
        batch, shape, x = len(z.centre), z.centre.shape, self.inside.x
        given = z.noise[self.graph.input].flatten(2).transpose(1, 2)  # (B, entries, D)
        given = given.expand(batch, *given.shape[1:])
        example = torch.arange(batch, device=x.device).repeat_interleave(given.shape[1])
        flat = given.reshape(-1, *x.shape[1:])
        ends = []
        for sign in (1.0, -1.0) if symmetric else (1.0,):
            least = []
            for rows, of in zip(torch.split(flat, ROWS), torch.split(example, ROWS), strict=True):
                look()
                least.append(self.inside.lowest(sign * rows, of))
            ends.append(sign * torch.cat(least).view(shape))
        ball = self.inside.ball
        limit = ball.radius.nan_to_num(0.0, 0.0, 0.0)[:, None]
        far = torch.einsum("bed,bd->be", given.abs(), self.reach + limit).view(shape)
        symbols = sum(part.shape[1] for part in apart.values())
        error = charge(symbols + 8) * (z.centre.abs() + radius)
        error = error + charge(4 * x[0].numel() + 64) * far + TINY
        low, high = z.centre - radius + ends[0], z.centre + radius + ends[-1]
        return Interval(low, high), error + charge(4) * torch.maximum(low.abs(), high.abs())

    def _size(self, z: Form) -> Tensor:
        """(B, ...) |centre| and what symbols add at most, each taken absolutely."""
        total = z.centre.abs()
        for name, part in z.noise.items():
            if name == self.graph.input:
                far = self.reach.view(*self.reach.shape, *[1] * (part.dim() - 2))
                total = total + (part.abs() * far).sum(1)
            else:
                total = total + part.abs().sum(1)
        return total

    def _map(self, node: Node) -> Form:
        """Affine nodes."""
        names = self.graph.inputs(node)
        given = {name: self.forms[name] for name in names}
        sizes = {name: self._size(z) + z.box + z.lost for name, z in given.items()}
        known = self.known[node.name] = affine(node, self.graph, self.single)
        most = magnitude(node, sizes, self.constants)
        off = inexact(node, sizes, self.constants, self.doubts)
        box, lost = (
            spread(node, {n: getattr(z, kept) for n, z in given.items()}, self.constants)
            for kept in ("box", "lost")
        )
        if known.forward:
            lost = lost + charge(known.forward + 16) * most + TINY
        if off is not None:
            lost = lost + 2 * off
        centres = {name: z.centre for name, z in given.items()}
        centre: Tensor = node.answer({**self.constants, **centres})
        noise = self._moved(node, given)
        return Form(centre, noise, box.expand_as(centre), lost.expand_as(centre))

    def _moved(self, node: Node, given: dict[str, Form]) -> dict[str, Tensor]:
        """The linear part on the coefficients."""
        names, noise = list(given), {}

        def call(*values: Tensor) -> Tensor:
            return linear(node, dict(zip(names, values, strict=True)), self.single)

        many = forwarded(node, names, self.single, call)
        for source in dict.fromkeys(name for z in given.values() for name in z.noise):
            found = [z.noise[source] for z in given.values() if source in z.noise]
            batch, symbols = max(len(part) for part in found), found[0].shape[1]
            parts = []
            for z in given.values():
                shape = (batch, symbols, *z.centre.shape[1:])
                part = z.noise.get(source, z.centre.new_zeros(()))
                parts.append(part.expand(shape).reshape(-1, 1, *shape[2:]))
            moved = many(*parts)
            noise[source] = moved.reshape(batch, symbols, *moved.shape[2:])
        return noise

    def _bend(self, node: Node) -> Form:
        """Nonlinear nodes: slopes on all parts, and a symbol or a box of its own for every entry.

        What a slope rounds is paid for with all that it is multiplied with.
        """
        names, last = self.graph.inputs(node), node.kind == "row_max"
        given = [self.forms[name] for name in names]
        inputs = [self.range(z) for z in given]
        known = relaxation(node, self._arguments(node, dict(zip(names, inputs, strict=True))))
        if self.kind == "hybrid":
            tied = torch.zeros_like(inputs[0].lower.sum(-1) if last else inputs[0].lower)
            for z in given:
                own = z.noise[self.graph.input].abs().sum(1)
                tied = tied + (own.sum(-1) if last else own)
            strip = shared(known, inputs, tied == 0)
        else:
            strip = exact_strip(known, inputs)
        middle, radius = strip.centred()
        centre, size = middle, middle.abs()
        box = lost = torch.zeros_like(middle)
        noise: dict[str, Tensor] = {}
        for z, k in zip(given, strip.slopes, strict=True):
            centre = centre + _sloped(z.centre, k, last)
            parts = (_sloped(t, k.abs(), last) for t in (z.box, z.lost, self._size(z)))
            box, lost, size = (a + b for a, b in zip((box, lost, size), parts, strict=True))
            for source, part in z.noise.items():
                moved = _sloped(part, k.unsqueeze(1), last)
                noise[source] = noise[source] + moved if source in noise else moved
        times = inputs[0].lower.shape[-1] if last else 1
        kept = _exact(strip.slopes, middle, last)
        lost = lost + torch.where(kept, 0.0, charge(times + 8) * (size + box) + TINY)
        if self.kind == "hybrid":
            return Form(centre, noise, box + radius, lost + charge(2) * (box + radius))
        return Form(centre, {**noise, node.name: columns(radius)}, box, lost)

    def _arguments(self, node: Node, live: dict[str, Interval]) -> Sequence[Any]:
        found: Sequence[Any] = bind(node.args, {**self.constants, **live})
        return found

    def _terms(self) -> int:
        """Roundings of an entry of a row that is walked back to where boxes came in."""
        longest: int = max(self.single[name].numel() for name in self.graph.live)
        return 16 + sum(known.backward for known in self.known.values()) + longest

    def _boxes(self, rows: Tensor) -> Tensor:
        """(B, S) what boxes add at the last nonlinear nodes."""
        total = rows.new_zeros(rows.shape[:2])
        if self.kind != "hybrid":
            return total
        shape = self.single[self.graph.output].shape[1:]
        walked = {self.graph.output: rows.flatten(0, 1).view(-1, *shape)}
        for node in reversed(self.graph.nodes):
            if node.name not in walked:
                continue
            row = walked.pop(node.name)
            if nonlinear(node, self.graph):
                total = total + self._added(node.name, row, total)
                continue
            below = self.known[node.name].transpose(row)
            for name, part in zip(self.graph.inputs(node), below, strict=True):
                walked[name] = walked[name] + part if name in walked else part
        return total

    def _added(self, name: str, row: Tensor, like: Tensor) -> Tensor:
        box = self.forms[name].box
        own = row.abs().view(*like.shape, *box.shape[1:]) * box.unsqueeze(1)
        return own.flatten(2).sum(2)


def _sloped(value: Tensor, slope: Tensor, spread: bool) -> Tensor:
    moved = value * slope
    return moved.sum(-1) if spread else moved


def _exact(slopes: tuple[Tensor, ...], middle: Tensor, last: bool) -> Tensor:
    """Where nothing is rounded: all is copied, or all is dropped."""
    if len(slopes) > 1 or last:
        return torch.zeros_like(middle, dtype=torch.bool)
    return ((slopes[0] == 0) | (slopes[0] == 1)) & (middle == 0)


def zonotope_margins(graph: Graph, inside: InputSet, y: Tensor, kind: Kind) -> Sum:
    """(B, K - 1) bounds of margins, and their errors."""
    x, single, found = inside.x, graph.run(inside.x[:1]), list[Sum]()
    largest = max(single[name].numel() for name in graph.live)
    count = max(1, entries() // (x[0].numel() * largest))
    for rows in torch.split(torch.arange(len(x), device=x.device), count):
        sweep = Sweep.of(graph, inside.take(rows), kind)
        found.append(sweep.lower(rows_of(y[rows], single[graph.output].shape[-1]).to(x)))
    return Sum(*(torch.cat(part) for part in zip(*found, strict=True)))
