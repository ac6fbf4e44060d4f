"""Hybrid zonotopes (Mirman et al. 2018): a centre, noise that entries share, and a box of noise
that each has for itself. Bounds have gradients in the weights.

With no shared noise these are intervals; with a symbol for every pixel nothing is lost up to the
first ReLUs. ReLUs bring in no symbols: what they add goes into the box, so that the cost stays that
of a forward pass per symbol.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from torchproof.verify.clock import look
from torchproof.verify.forward import forwarded, hold_noise
from torchproof.verify.graph import Graph, Node, Values, bind
from torchproof.verify.inputs import InputSet
from torchproof.verify.interval import Interval
from torchproof.verify.operators import AFFINE, nonlinear, relaxation
from torchproof.verify.relax import Hinge, Relaxation
from torchproof.verify.strips import strip


@dataclass(frozen=True)
class Hybrid:
    """centre + sum_i noise_i e_i + box e', e and e' in [-1, 1]: centre (B, ...), noise (B, m, ...)
    with the same e for all entries and nodes, box (B, ...) >= 0 with an e' for each entry.
    """

    centre: Tensor
    noise: Tensor
    box: Tensor

    @property
    def range(self) -> Interval:
        radius = self.box + self.noise.abs().sum(1)
        return Interval(self.centre - radius, self.centre + radius)

    @property
    def alone(self) -> Interval:
        """Centre and box, without the noise."""
        return Interval(self.centre - self.box, self.centre + self.box)


def _boxed(z: Hybrid, slope: Any, low: Tensor, high: Tensor) -> Hybrid:
    """Nothing is shared any more: the interval of the answer."""
    start = slope * low
    return Hybrid((high + start) / 2, torch.zeros_like(z.noise), (high - start) / 2)


def _diagonal(z: Hybrid, slope: Any, low: Tensor, high: Tensor) -> Hybrid:
    """Slope 1: what is added lies in [0, (slope - 1) low]."""
    half = (slope - 1) * low / 2
    return Hybrid(z.centre + half, z.noise, z.box + half)


def _switched(z: Hybrid, slope: Any, low: Tensor, high: Tensor) -> Hybrid:
    """The box where most of the range is negative, else the diagonal."""
    return _mixed(z, slope, low, high, (-low > high).to(low))


def _smooth(z: Hybrid, slope: Any, low: Tensor, high: Tensor) -> Hybrid:
    """Both, weighted by the share of the range that is negative."""
    return _mixed(z, slope, low, high, -low / (high - low).clamp_min(torch.finfo(low.dtype).tiny))


def _mixed(z: Hybrid, slope: Any, low: Tensor, high: Tensor, share: Tensor) -> Hybrid:
    """The entries of both hold for the same noise, so that any mixture of the two does."""
    one, other = _boxed(z, slope, low, high), _diagonal(z, slope, low, high)
    return Hybrid(
        share * one.centre + (1 - share) * other.centre,
        (1 - share).unsqueeze(1) * other.noise,
        share * one.box + (1 - share) * other.box,
    )


def _chord(z: Hybrid, slope: Any, low: Tensor, high: Tensor) -> Hybrid:
    """The slope of the chord, as in DeepZ (Singh et al. 2018)."""
    width = (high - low).clamp_min(torch.finfo(low.dtype).tiny)
    lam = (high - slope * low) / width
    half = (slope - lam) * low / 2
    return Hybrid(lam * z.centre + half, lam.unsqueeze(1) * z.noise, lam * z.box + half)


Rule = Callable[[Hybrid, Any, Tensor, Tensor], Hybrid]
"""From a value, the slope below 0 and the ends, of entries with low < 0 < high."""

RULES: dict[str, Rule] = {
    "box": _boxed,
    "diagonal": _diagonal,
    "switch": _switched,
    "smooth": _smooth,
    "chord": _chord,
}
"""What ReLUs that may change their sign do to the noise (Mirman et al. 2018; chord: DeepZ). Entries
without shared noise become boxes under all rules, which is never looser there.
"""


@dataclass
class Sweep:
    """A graph walked once forward with hybrid zonotopes; single: its answers to one input.

    chosen: (B, m) places of the pixels that have a symbol each; the others are in the box. The set
    of inputs is replaced with the smallest box around it, which for Linf it is.
    """

    graph: Graph
    rule: str
    reference: Values
    single: Values
    found: dict[str, Hybrid] = field(default_factory=dict)

    @classmethod
    def of(cls, graph: Graph, inside: InputSet, chosen: Tensor, rule: str) -> Sweep:
        made = cls(graph, rule, graph.run(inside.x), graph.run(inside.x[:1]))
        made.found[graph.input] = _start(inside.box(), chosen)
        for node in graph.nodes:
            if node.name in graph.live:
                look()
                step = made._bend if nonlinear(node, graph) else made._map
                made.found[node.name] = step(node)
        return made

    def lower(self, rows: Tensor) -> Tensor:
        """(B, S) lower bounds of the rows (B, S, K) of the answer, merged into the last layers."""
        answer = self.found[self.graph.output]
        bound = torch.einsum("bsk,bk->bs", rows, answer.centre)
        bound = bound - torch.einsum("bsk,bmk->bsm", rows, answer.noise).abs().sum(2)
        names, transpose = self._tail()
        for name, part in zip(names, transpose(rows.flatten(0, 1)[:, None]), strict=True):
            box = self.found[name].box
            own = part.reshape(*rows.shape[:2], *box.shape[1:]).abs() * box.unsqueeze(1)
            bound = bound - own.flatten(2).sum(2)
        return bound

    def _tail(self) -> tuple[tuple[str, ...], Callable[[Tensor], tuple[Tensor, ...]]]:
        """The last nonlinear nodes, and the transpose of the affine ones behind them, which takes
        many rows (R, 1, K) at once.
        """
        graph, ends, nodes, todo = self.graph, [], set(), [self.graph.output]
        while todo:
            name = todo.pop()
            node = graph.by_name.get(name)
            if node is None or nonlinear(node, graph):
                ends.append(name)
            elif name not in nodes:
                nodes.add(name)
                todo += graph.inputs(node)
        names = tuple(dict.fromkeys(ends))

        def tail(*values: Tensor) -> Tensor:
            found = {**self.single, **dict(zip(names, values, strict=True))}
            for node in graph.nodes:
                if node.name in nodes:
                    found[node.name] = node.answer(found)
            answer: Tensor = found[graph.output]
            return answer

        back = torch.func.vjp(tail, *(torch.zeros_like(self.single[name]) for name in names))[1]
        return names, torch.func.vmap(back)

    def _map(self, node: Node) -> Hybrid:
        """Affine nodes: intervals move centre and box, the linear part the noise."""
        names = self.graph.inputs(node)
        given = [self.found[name] for name in names]
        alone = {name: z.alone for name, z in zip(names, given, strict=True)}
        moved = AFFINE[node.kind](node, self._arguments(node, alone))
        box = (moved.upper - moved.lower) / 2
        batch, symbols = given[0].noise.shape[:2]
        parts = [z.noise.reshape(batch * symbols, 1, *z.noise.shape[2:]) for z in given]
        noise = box.new_zeros(batch, 0, *box.shape[1:])
        if symbols:
            hold_noise([("", given[0].noise)], node, names, self.single)
            noise = forwarded(node, names, self.single)(*parts)
            noise = noise.reshape(batch, symbols, *box.shape[1:])
        return Hybrid(moved.lower + box, noise, box)

    def _bend(self, node: Node) -> Hybrid:
        names = self.graph.inputs(node)
        given = [self.found[name] for name in names]
        inputs = [z.range for z in given]
        known = relaxation(node, self._arguments(node, dict(zip(names, inputs, strict=True))))
        if isinstance(known, Hinge):
            return self._hinged(known, given[0], inputs[0])
        return _stripped(known, given, inputs, node.kind == "row_max")

    def _hinged(self, known: Hinge, z: Hybrid, ends: Interval) -> Hybrid:
        low, high = ends.lower, ends.upper
        steady = torch.where(low >= 0, torch.ones_like(low), torch.zeros_like(low) + known.slope)
        kept = Hybrid(steady * z.centre, steady.unsqueeze(1) * z.noise, steady * z.box)
        open_ = (low < 0) & (high > 0)
        bent = RULES[self.rule](z, known.slope, low, high)
        boxed = _boxed(z, known.slope, low, high)
        apart = open_ & (z.noise.abs().sum(1) == 0)
        return _where(apart, boxed, _where(open_, bent, kept))

    def _arguments(self, node: Node, live: dict[str, Interval]) -> Sequence[Any]:
        found: Sequence[Any] = bind(node.args, {**self.reference, **live})
        return found


def _start(inside: Interval, chosen: Tensor) -> Hybrid:
    half = inside.width / 2
    batch, symbols = chosen.shape
    flat = half.flatten(1)
    noise = flat.new_zeros(batch, symbols, flat.shape[1])
    noise = noise.scatter(2, chosen.unsqueeze(2), flat.gather(1, chosen).unsqueeze(2))
    box = flat.scatter(1, chosen, 0.0)
    shape = half.shape[1:]
    return Hybrid(inside.lower + half, noise.view(batch, symbols, *shape), box.view_as(half))


def _stripped(
    known: Relaxation, given: Sequence[Hybrid], inputs: Sequence[Interval], spread: bool
) -> Hybrid:
    """Other operations: slopes on centre, noise and box, and what is left into the box; the
    interval of the answer where no noise is shared.
    """
    slopes, centre, box = strip(known, inputs)
    noise: Tensor | None = None
    for z, k in zip(given, slopes, strict=True):
        parts = (k * z.centre, k.unsqueeze(1) * z.noise, k.abs() * z.box)
        one, shared, own = (part.sum(-1) if spread else part for part in parts)
        centre, box = centre + one, box + own
        noise = shared if noise is None else noise + shared
    assert noise is not None, "a nonlinear operation reads something"
    bare, found = known.range(inputs), Hybrid(centre, noise, box)
    half = bare.width / 2
    alone = Hybrid(bare.lower + half, torch.zeros_like(noise), half)
    return _where(noise.abs().sum(1) == 0, alone, found)


def _where(mask: Tensor, one: Hybrid, other: Hybrid) -> Hybrid:
    return Hybrid(
        torch.where(mask, one.centre, other.centre),
        torch.where(mask.unsqueeze(1), one.noise, other.noise),
        torch.where(mask, one.box, other.box),
    )
