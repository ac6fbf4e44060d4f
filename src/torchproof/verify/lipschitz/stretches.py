"""Affine stretches of a graph: what lies between two nonlinear operations, as one linear map."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from torchproof.verify.graph import Graph, Node, Values, bind
from torchproof.verify.operators import nonlinear
from torchproof.verify.sound.affine import spread

Transpose = Callable[[Tensor], tuple[Tensor, ...]]
ROWS = 1024  # walked back at once


@dataclass(frozen=True)
class Stretch:
    """The linear part of the way from one node's answer to another's, all paths added.

    nodes: the affine ones between them, in order; single: every node's answer to one example.
    """

    graph: Graph
    source: str
    sink: str
    nodes: tuple[Node, ...]
    single: Values

    @property
    def sizes(self) -> tuple[int, int]:
        """Entries of the sink and of the source."""
        return self.single[self.sink].numel(), self.single[self.source].numel()

    def back(self, rows: Tensor) -> Tensor:
        """Rows (R, *sink) times the map, (R, *source)."""
        return torch.cat([self._transpose(part[:, None])[:, 0] for part in torch.split(rows, ROWS)])

    @cached_property
    def _transpose(self) -> Callable[[Tensor], Tensor]:
        def run(value: Tensor) -> Tensor:
            values = {**self.single, self.source: value}
            for node in self.nodes:
                values[node.name] = node.answer(values)
            answer: Tensor = values[self.sink]
            return answer

        back = torch.func.vjp(run, torch.zeros_like(self.single[self.source]))[1]
        many: Callable[[Tensor], Tensor] = torch.func.vmap(lambda row: back(row)[0])
        return many

    @cached_property
    def matrix(self) -> Tensor:
        """(sink, source)."""
        size, like = self.sizes[0], self.single[self.sink]
        unit = torch.eye(size, dtype=like.dtype, device=like.device)
        return self.back(unit.view(size, *like.shape[1:])).flatten(1)


def stretches(graph: Graph, sink: str, single: Values) -> tuple[Stretch, ...]:
    """The stretches that end at `sink`, from the input and the nonlinear nodes that they start at.

    A sink that is itself such a node has one stretch, of nothing.
    """
    starts = {graph.input, *(node.name for node in graph.nodes if nonlinear(node, graph))}
    below = _before(graph, sink, starts)
    found = []
    for source in (name for name in below if name in starts):
        above, nodes = {source}, []
        for node in graph.nodes:
            if node.name in below - starts and above & set(graph.inputs(node)):
                above.add(node.name)
                nodes.append(node)
        found.append(Stretch(graph, source, sink, tuple(nodes), single))
    return tuple(sorted(found, key=lambda stretch: stretch.source))


def _before(graph: Graph, sink: str, starts: set[str]) -> set[str]:
    seen: set[str] = set()
    todo = [sink]
    while todo:
        current = todo.pop()
        if current not in seen:
            seen.add(current)
            if current not in starts:
                todo += graph.inputs(graph.by_name[current])
    return seen


def transposed(node: Node, names: Sequence[str], single: Values) -> Transpose:
    """Rows (R, ...) at an affine node's answer to rows at its live inputs `names`."""

    def run(*values: Tensor) -> Tensor:
        known = {**single, **dict(zip(names, values, strict=True))}
        answer: Tensor = node.call(*bind(node.args, known))
        return answer

    return _many(run, [torch.zeros_like(single[name]) for name in names])


def absolute(node: Node, names: Sequence[str], single: Values) -> Callable[..., Tensor]:
    """The matrix of an affine node with absolute entries, as a function of values >= 0 at its live
    inputs, without the offset.
    """

    def run(*radii: Tensor) -> Tensor:
        return spread(node, dict(zip(names, radii, strict=True)), single)

    return run


def absolutely_transposed(node: Node, names: Sequence[str], single: Values) -> Transpose:
    """Rows (R, ...) >= 0 times the matrix with absolute entries."""
    return _many(absolute(node, names, single), [torch.ones_like(single[name]) for name in names])


def _many(run: Callable[..., Tensor], points: Sequence[Tensor]) -> Transpose:
    many = torch.func.vmap(torch.func.vjp(run, *points)[1])

    def transpose(rows: Tensor) -> tuple[Tensor, ...]:
        return tuple(part[:, 0] for part in many(rows[:, None]))

    return transpose
