"""The affine maps between the nonlinear operations of a graph, as sparse matrices.

They do not depend on the input, so one set of them serves every example.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from torchproof.core.errors import InputError
from torchproof.verify.clock import look
from torchproof.verify.graph import Graph, Node, Values
from torchproof.verify.operators import nonlinear
from torchproof.verify.transpose import Transpose, transposed

BUDGET = 2**22  # entries of the largest dense block of a matrix while it is made


class Affine(NamedTuple):
    """value = sum_s parts[s] @ s + offset over sources s, everything flattened; sparse (n, m)."""

    parts: dict[str, Any]
    offset: np.ndarray


@dataclass
class Maps:
    """The maps from sources, which are the input and the nonlinear nodes, to any node; single: the
    answer of every node to one input; rounding: what is known of how far composed maps are off.
    """

    graph: Graph
    single: Values
    rounding: Rounding | None = None
    _known: dict[str, Affine] = field(default_factory=dict)
    _begun: dict[str, _Rows] = field(default_factory=dict)

    @classmethod
    def of(cls, graph: Graph, x: Tensor) -> Maps:
        """For inputs like x (B, ...). Raises InputError for a graph that is not in float64."""
        dtypes = {c.dtype for c in graph.constants.values() if c.is_floating_point()}
        if others := dtypes - {torch.float64}:
            given = f"a graph in {', '.join(map(str, others))} for a programme"
            remedy = "trace copy.deepcopy(model).double() with x.double()"
            raise InputError(given, "one in float64", remedy)
        return cls(graph, graph.run(x[:1]))

    @cached_property
    def bends(self) -> tuple[Node, ...]:
        """The nonlinear nodes, in the order in which they run."""
        nodes = (n for n in self.graph.nodes if n.name in self.graph.live)
        return tuple(n for n in nodes if nonlinear(n, self.graph))

    @cached_property
    def sources(self) -> frozenset[str]:
        return frozenset({self.graph.input, *(n.name for n in self.bends)})

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a node's answer to one input, without the batch."""
        return tuple(self.single[name].shape[1:])

    def to(self, name: str) -> Affine:
        """The map to a node; of a source it is the identity."""
        if name not in self._known:
            size = int(np.prod(self.shape(name)))
            itself = Affine({name: sparse.eye_array(size, format="csr")}, np.zeros(size))
            self._known[name] = itself if name in self.sources else self._made(name, size)
        return self._known[name]

    def _made(self, name: str, size: int) -> Affine:
        """Row by row, back from the node to the sources. Rows that have been made when time is over
        are kept.
        """
        nodes, sources = self.between(name)
        known = {**self.single, **{s: torch.zeros_like(self.single[s]) for s in sources}}
        for node in nodes:
            known[node.name] = node.answer(known)
        begun = self._begun.setdefault(name, _Rows([[] for _ in sources]))
        begun.go_on(self._back(name, nodes, sources), known[name], BUDGET // self._widest(nodes))
        parts = self._begun.pop(name).whole
        offset = known[name].detach().reshape(size).numpy()
        return Affine(dict(zip(sources, parts, strict=True)), offset)

    def _widest(self, nodes: Sequence[Node]) -> int:
        """The most entries of what these nodes read and answer."""
        names = {n for node in nodes for n in (node.name, *self.graph.inputs(node))}
        return max(int(self.single[name].numel()) for name in names)

    def _back(self, name: str, nodes: Sequence[Node], sources: Sequence[str]) -> Transpose:
        """Rows (R, ...) at a node to rows at the sources, through the affine nodes between."""
        steps = [
            (node.name, names, transposed(node, names, self.single))
            for node in reversed(nodes)
            for names in [self.graph.inputs(node)]
        ]

        def back(rows: Tensor) -> tuple[Tensor, ...]:
            at = {name: rows}
            for answer, names, step in steps:
                for source, part in zip(names, step(at.pop(answer)), strict=True):
                    at[source] = at[source] + part if source in at else part
            return tuple(at[source] for source in sources)

        return back

    def off(self, name: str, sizes: Mapping[str, Tensor]) -> np.ndarray:
        """(n,) how far the map to a node may be off for sources (1, ...) of at most these sizes, as
        far as that is known.
        """
        if self.rounding is None or name in self.sources:
            return np.zeros(int(np.prod(self.shape(name))))
        return self.rounding(self, name, sizes)

    def between(self, name: str) -> tuple[list[Node], list[str]]:
        """The affine nodes that lead to a node, and the sources before them."""
        wanted, kept, found = {name}, [], []
        for node in reversed(self.graph.nodes):
            if node.name not in wanted:
                continue
            if node.name in self.sources:
                found.append(node.name)
            else:
                kept.append(node)
                wanted |= set(self.graph.inputs(node))
        if self.graph.input in wanted:
            found.append(self.graph.input)
        return kept[::-1], found


Rounding = Callable[[Maps, str, Mapping[str, Tensor]], np.ndarray]


@dataclass
class _Rows:
    """The first `done` rows of the maps from each source to a node, in blocks."""

    blocks: list[list[Any]]
    done: int = 0

    def go_on(self, back: Transpose, answer: Tensor, chunk: int) -> None:
        """Makes the others, so many at a time; raises OutOfTime in between."""
        size, chunk = answer.numel(), max(1, chunk)
        while self.done < size:
            look()
            places = torch.arange(self.done, min(self.done + chunk, size))
            unit = torch.zeros(len(places), size, dtype=answer.dtype)
            unit[torch.arange(len(places)), places] = 1.0
            parts = back(unit.view(len(places), *answer.shape[1:]))
            for block, part in zip(self.blocks, parts, strict=True):
                block.append(sparse.csr_array(part.detach().reshape(len(places), -1).numpy()))
            self.done += len(places)

    @property
    def whole(self) -> list[Any]:
        return [sparse.vstack(block, format="csr") for block in self.blocks]
