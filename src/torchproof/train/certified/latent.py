"""Networks cut at a layer: what may be there when the input is anywhere in a threat, and what the
layers behind make of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from torchproof.core import keys
from torchproof.core.errors import InputError
from torchproof.train.certified.layers import SWITCHING
from torchproof.verify.bounds import Bound, Pass
from torchproof.verify.graph import Graph, Node, Values, bind
from torchproof.verify.inputs import InputSet
from torchproof.verify.operators import nonlinear, relaxation
from torchproof.verify.strips import Strip, strip

Latent = dict[str, Tensor]
"""Node -> (B, ...): all that the layers behind a cut read of those before it."""


@dataclass(frozen=True)
class Cut:
    """A graph in two parts: up to the node `layer`, which may be its input, and behind it."""

    graph: Graph
    layer: str

    @cached_property
    def before(self) -> tuple[Node, ...]:
        """The live nodes up to the layer, in order."""
        return self._live[: self._place]

    @cached_property
    def behind(self) -> tuple[Node, ...]:
        return self._live[self._place :]

    @cached_property
    def _live(self) -> tuple[Node, ...]:
        return tuple(node for node in self.graph.nodes if node.name in self.graph.live)

    @cached_property
    def _place(self) -> int:
        names = [node.name for node in self._live]
        return names.index(self.layer) + 1 if self.layer in names else 0

    @cached_property
    def frontier(self) -> tuple[str, ...]:
        """The nodes before the cut, the input among them, that nodes behind it read."""
        own = {node.name for node in self.behind}
        read = [name for node in self.behind for name in self.graph.inputs(node)]
        return tuple(dict.fromkeys(name for name in read if name not in own))

    @cached_property
    def head(self) -> Graph:
        """The graph up to the layer."""
        if self.layer == self.graph.input:
            return replace(self.graph, nodes=(), output=self.layer)
        names = [node.name for node in self.graph.nodes]
        nodes = self.graph.nodes[: names.index(self.layer) + 1]
        return replace(self.graph, nodes=nodes, output=self.layer)

    def onward(
        self, reference: Values, latent: Mapping[str, Tensor], to: Cut | None = None
    ) -> Values:
        """The answers of the nodes behind the cut, as far as those before another cut, to values at
        this one. reference: the answers to the images themselves.
        """
        found = {**reference, **latent}
        last = None if to is None else {node.name for node in to.behind}
        for node in self.behind:
            if last is None or node.name not in last:
                found[node.name] = node.answer(found)
        return found

    def answer(self, reference: Values, latent: Mapping[str, Tensor]) -> Tensor:
        """(B, K) the logits."""
        logits: Tensor = self.onward(reference, latent)[self.graph.output]
        return logits

    def weights(self) -> Iterator[Tensor]:
        """The tensors of two and more axes that the nodes behind the cut are made of."""
        todo = [name for node in self.behind for name in node.refs if name not in self.graph.live]
        seen: set[str] = set()
        while todo:
            name = todo.pop()
            if name in seen:
                continue
            seen.add(name)
            if name in self.graph.constants:
                value = self.graph.constants[name]
                if value.dim() > 1 and value.requires_grad:
                    yield value
            elif name in self.graph.by_name:
                todo += [n for n in self.graph.by_name[name].refs if n not in self.graph.live]


def cuts(graph: Graph, depth: int | None) -> list[Cut]:
    """At the input, and behind each of the first `depth` layers of ReLUs; without a depth behind
    all but the last.

    Raises InputError for more layers than there are.
    """
    nodes = (node for node in graph.nodes if node.kind in SWITCHING)
    names = [node.name for node in nodes if node.name in graph.live]
    wanted = max(len(names) - 1, 0) if depth is None else depth
    if wanted > len(names):
        raise InputError(
            f"depth = {depth} for a network with {len(names)} layers of ReLUs",
            f"at most {len(names)}",
            "leave depth out for all but the last",
        )
    return [Cut(graph, name) for name in (graph.input, *names[:wanted])]


@dataclass(frozen=True)
class Relaxed:
    """The convex relaxation of a network up to a cut, a zonotope: entries of nonlinear operations
    are anywhere in their strips, <slopes, z> + middle + radius e with e in [-1, 1].

    A point of it is written as its noise: the perturbation of the input, and the e of every
    nonlinear node. So to project is to clamp, and what the noise is made into never leaves the
    relaxation.
    """

    cut: Cut
    inside: InputSet
    reference: Values
    strips: dict[str, Strip]

    @classmethod
    def of(cls, cut: Cut, inside: InputSet, reference: Values, bound: Bound) -> tuple[Relaxed, int]:
        """bound: what is known before nonlinear operations. Also: the walks back that it took."""
        passed = Pass.of(cut.head, inside, bound)
        strips = {}
        for node in cut.before:
            if nonlinear(node, cut.graph):
                known = relaxation(node, bind(node.args, {**reference, **passed.intervals}))
                names = cut.graph.inputs(node)
                strips[node.name] = strip(known, [passed.intervals[name] for name in names])
        return cls(cut, inside, reference, strips), passed.walk.walked

    def start(self, key: Tensor) -> Latent:
        """Random noise, keyed by (B,) keys."""
        found = {self.cut.graph.input: self.inside.ball.sample(key)}
        for name, held in self.strips.items():
            shape, dtype = tuple(held.middle.shape[1:]), held.middle.dtype
            found[name] = 2 * keys.uniform(keys.mix(key, name), 0, shape, dtype=dtype) - 1
        return found

    def at(self, noise: Mapping[str, Tensor]) -> Latent:
        """The point at the cut that the noise stands for."""
        graph = self.cut.graph
        found = {**self.reference, graph.input: self.inside.x + noise[graph.input]}
        for node in self.cut.before:
            if node.name not in self.strips:
                found[node.name] = node.answer(found)
                continue
            held, spread = self.strips[node.name], node.kind == "row_max"
            value = held.middle + held.radius * noise[node.name]
            for name, slope in zip(graph.inputs(node), held.slopes, strict=True):
                part = slope * found[name]
                value = value + (part.sum(-1) if spread else part)
            found[node.name] = value
        return {name: found[name] for name in self.cut.frontier}

    def moved(self, noise: Latent, grad: Latent, length: float) -> Latent:
        """The noise after a step uphill, of `length` in units of eps and of half the range of e."""
        start = self.cut.graph.input
        after = {n: (e + length * grad[n].sign()).clamp(-1, 1) for n, e in noise.items()}
        after[start] = self.inside.ball.advance(noise[start].clone(), grad[start], length)
        return after

    def worst(
        self, loss: Callable[[Latent], Tensor], key: Tensor, steps: int, length: float
    ) -> Latent:
        """The point at the cut where PGD on the noise ends; loss: of a point, (B,)."""
        noise = self.start(key)
        for _ in range(steps):
            leaves = {name: value.detach().requires_grad_() for name, value in noise.items()}
            with torch.enable_grad():
                total = loss(self.at(leaves)).sum()
            grads = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
            found = {
                name: torch.zeros_like(leaf) if g is None else g
                for (name, leaf), g in zip(leaves.items(), grads, strict=True)
            }
            noise = self.moved(noise, found, length)
        with torch.no_grad():
            return self.at(noise)
