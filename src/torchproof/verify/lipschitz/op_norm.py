"""The product of operator norms (Szegedy et al. 2014, sec. 4.3; Tsuzuku et al. 2018), with spectral
norms that are certified and not estimated.

L of a node is a bound of how much it changes per unit of the input: 1 for the input; the steepest
slope times that of what it reads, for a nonlinear one; and what is affine adds up its stretches, so
that a residual block has 1 + L of its branch. Layers with nothing nonlinear between them are one
map: a normalising layer and a convolution cost one norm.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from torchproof.core.norms import L2, Linf, Norm
from torchproof.verify.clock import look
from torchproof.verify.graph import Graph, Node, Values, bind
from torchproof.verify.inputs import rows_of
from torchproof.verify.lipschitz.margin import dual, margins_at
from torchproof.verify.lipschitz.slopes import steepest
from torchproof.verify.lipschitz.spectral import GRAMS, conv_bound, gram_bound
from torchproof.verify.lipschitz.stretches import (
    Stretch,
    absolute,
    absolutely_transposed,
    stretches,
)
from torchproof.verify.operators import nonlinear, relaxation

ENTRIES = 2**24  # of the largest map that is written as a matrix
SIDE = 2048  # of the largest Gram matrix


@dataclass(frozen=True)
class OpNorm:
    """Radii from one constant per margin, for all images: the norm of w_y - w_t, merged with the
    last stretch, times L of what that reads.
    """

    def radius(self, graph: Graph, x: Tensor, y: Tensor, norm: Norm) -> Tensor:
        """(B,) the least of margin / constant over the other classes; 0 where the class is not
        y.
        """
        gaps = margins_at(graph, x, y)
        rows = rows_of(y, gaps.shape[1] + 1).to(gaps.dtype)
        with torch.no_grad():
            constants = Constants.made(graph, norm, x).row(rows.flatten(0, 1)).view_as(gaps)
        return (gaps / constants).amin(1).nan_to_num(0.0, torch.inf).clamp_min(0)

    def certified_at(self, graph: Graph, x: Tensor, y: Tensor, norm: Norm, eps: float) -> Tensor:
        """(B,) is the radius larger than eps?"""
        return self.radius(graph, x, y, norm) > eps


@dataclass
class Constants:
    """Lipschitz constants of a graph's nodes, from the input in `norm` to their answers in the same
    norm; single: answers to one example, whose values do not matter. Differentiable in the weights.
    """

    graph: Graph
    norm: Norm
    single: Values
    of: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def made(cls, graph: Graph, norm: Norm, x: Tensor) -> Constants:
        """For inputs like x (B, ...). Raises ModelError for what has no Lipschitz constant."""
        found = cls(graph, norm, graph.run(x[:1]))
        found.of[graph.input] = _one(x)
        for node in graph.nodes:
            if node.name in graph.live and nonlinear(node, graph):
                look()
                known = relaxation(node, bind(node.args, found.single))
                slope = steepest(known, node, found.single[graph.inputs(node)[0]])
                found.of[node.name] = slope * _total(found.whole(n) for n in graph.inputs(node))
        return found

    def whole(self, sink: str) -> Tensor:
        """The constant of any node before which all nonlinear ones are known."""
        parts = stretches(self.graph, sink, self.single)
        return _total(operator_norm(part, self.norm) * self.of[part.source] for part in parts)

    def row(self, rows: Tensor) -> Tensor:
        """(R,) constants of <row, answer>, for rows (R, K): the last stretch is merged with the
        row, and measured in the dual norm.
        """
        total = rows.new_zeros(len(rows))
        for part in stretches(self.graph, self.graph.output, self.single):
            length = dual(self.norm).length(part.back(rows).flatten(1))
            total = total + length * self.of[part.source].to(rows.dtype)
        return total


def _one(like: Tensor) -> Tensor:
    return torch.ones((), dtype=torch.float64, device=like.device)


def _total(parts: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(parts)).sum()


def operator_norm(stretch: Stretch, norm: Norm, steps: int = GRAMS) -> Tensor:
    """An upper bound of the largest length of an answer to a unit vector, both in `norm`; exact for
    Linf (the largest row sum) and L1 (the largest column sum) where the matrix is affordable.
    """
    out, into = stretch.sizes
    if not stretch.nodes:
        return _one(stretch.single[stretch.sink])
    if out * into > ENTRIES:
        return _by_node(stretch, norm)
    matrix = stretch.matrix.double()
    rows: Tensor = matrix.abs().sum(1).amax()
    columns: Tensor = matrix.abs().sum(0).amax()
    if not isinstance(norm, L2):
        return rows if isinstance(norm, Linf) else columns
    between: Tensor = (rows * columns).sqrt()  # Riesz and Thorin
    if min(out, into) > SIDE:
        return torch.minimum(between, _by_node(stretch, norm))
    return torch.minimum(between, gram_bound(matrix, steps))


def _by_node(stretch: Stretch, norm: Norm) -> Tensor:
    """The same, from a norm for every node: larger maps are not written out."""
    of = {stretch.source: _one(stretch.single[stretch.sink])}
    for node in stretch.nodes:
        names = [name for name in stretch.graph.inputs(node) if name in of]
        of[node.name] = _total(of[n] * node_norm(node, n, stretch.single, norm) for n in names)
    return of[stretch.sink]


def node_norm(node: Node, name: str, single: Values, norm: Norm) -> Tensor:
    """An upper bound of the operator norm of an affine node as a function of its input `name`."""
    unit = torch.ones_like(single[name])
    through = absolute(node, [name], single)
    (columns,) = absolutely_transposed(node, [name], single)(torch.ones_like(through(unit)))
    row: Tensor = through(unit).amax().double()
    column: Tensor = columns.amax().double()
    if not isinstance(norm, L2):
        return row if isinstance(norm, Linf) else column
    between: Tensor = (row * column).sqrt()
    conv = node.kind == "conv2d"
    return torch.minimum(between, _convolution(node, single)) if conv else between


def _convolution(node: Node, single: Values) -> Tensor:
    given: Sequence[Any] = bind(node.args, single)
    rest: Sequence[Any] = (None, None, None, 1, 0, 1, 1)
    x, weight, _, stride, padding, dilation, groups = (*given, *rest[len(given) :])
    step, apart = _pair(stride), _pair(dilation)
    high, wide = ((k - 1) * d for k, d in zip(weight.shape[2:], apart, strict=True))
    around = (high, wide) if isinstance(padding, str) else _pair(padding)  # "same" has no more
    return conv_bound(weight, (x.shape[-2], x.shape[-1]), step, around, apart, groups)


def _pair(value: Any) -> tuple[int, int]:
    listed = [value] if isinstance(value, int) else list(value)
    return listed[0], listed[-1]
