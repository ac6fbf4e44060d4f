"""Bounds from Lipschitz constants that hold in real arithmetic (`lipschitz.on_set`).

The margin at the image is that of intervals of no width, less their error. Norms are rounded up: of
a composed map by its roundings times the norm of the map with absolute values, which bounds what
entries are off by. Jacobians are intervals that are widened at every step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from torchproof.core.errors import InputError
from torchproof.core.norms import L1, L2, Linf, Norm, name_of
from torchproof.core.sets import Ball
from torchproof.verify import memory
from torchproof.verify.bounds import BOUNDS, IBP
from torchproof.verify.graph import Graph, Values, bind
from torchproof.verify.inputs import InputSet, rows_of
from torchproof.verify.lipschitz.fast_lip import FAST_LIP
from torchproof.verify.lipschitz.jacobian import Steepness
from torchproof.verify.lipschitz.margin import dual
from torchproof.verify.lipschitz.op_norm import Constants, node_norm, operator_norm
from torchproof.verify.lipschitz.slopes import slopes
from torchproof.verify.lipschitz.stretches import Stretch, absolutely_transposed, stretches
from torchproof.verify.operators import nonlinear, relaxation
from torchproof.verify.sound.affine import affine
from torchproof.verify.sound.constants import doubts
from torchproof.verify.sound.passes import Pass
from torchproof.verify.sound.rounding import TINY, charge
from torchproof.verify.sound.walk import Sum, Walk

METHODS = ("op-norm", "fast-lip")


def lipschitz_margins(
    graph: Graph, inside: InputSet, y: Tensor, method: str, seconds: float | None
) -> tuple[Sum, int]:
    """(B, K - 1) bounds of margins, and their errors; rows that were walked. method: one of
    METHODS. Raises InputError for L0 and op-norm, ModelError without a Lipschitz constant.
    """
    point = Pass.of(graph, InputSet.between(inside.x, inside.x), IBP)
    rows = rows_of(y, point.walk.single[graph.output].shape[-1]).to(inside.x)
    gaps, inside = point.lower(rows), Walk.of(graph, inside).inside
    shares = shares_of(graph, inside.x)
    if method == "op-norm":
        lost, walked = _globally(graph, inside, rows, shares), 0
    else:
        lost, walked = _locally(graph, inside, rows, shares), rows.shape[0] * rows.shape[1]
    value = gaps.value - lost
    return Sum(value, gaps.error + charge(4) * (value.abs() + lost)), walked


def shares_of(graph: Graph, x: Tensor) -> dict[str, float]:
    """By affine node, what its roundings, and those of its constants, are of the absolute values
    that it adds up.
    """
    single = graph.run(x[:1])
    constants = {k: v for k, v in single.items() if k not in graph.live}
    strange, found = doubts(graph, constants)[0], {}
    for node in graph.nodes:
        if node.name in graph.live and not nonlinear(node, graph):
            known = affine(node, graph, single)
            own = [_share(strange[n], constants[n]) for n in node.refs if n in strange]
            found[node.name] = charge(known.forward + known.backward + 16) + 2 * sum(own)
    return found


def _share(off: Any, value: Any) -> float:
    """The largest of what a constant's entries are off by, as a share of these."""
    off, value = torch.as_tensor(off), torch.as_tensor(value).abs()
    ratio = torch.where(off > 0, off / value, torch.zeros_like(off / value))
    return float(ratio.nan_to_num(torch.inf, torch.inf).max())


def _globally(graph: Graph, inside: InputSet, rows: Tensor, shares: Mapping[str, float]) -> Tensor:
    """(B, K - 1) the constants of op-norm times the longest perturbation, rounded up."""
    norm, up = inside.ball.norm, 1 + charge(inside.x[0].numel() + 32)
    if not isinstance(norm, (Linf, L2, L1)):
        remedy = "use bounds by propagation, which know L0"
        raise InputError(f"operator norms for {name_of(norm)}", "linf, l2 or l1", remedy)
    constants = Upper(graph, norm, inside.x, shares)
    reach = torch.maximum(-inside.ball.floor, inside.ball.ceiling)
    longest = torch.minimum(inside.ball.radius, norm.length(reach) * up)
    found = constants.row(rows.flatten(0, 1)).view(rows.shape[:2])
    return longest[:, None] * found * up + TINY


class Upper:
    """As `op_norm.Constants`, rounded up at every node."""

    def __init__(self, graph: Graph, norm: Norm, x: Tensor, shares: Mapping[str, float]) -> None:
        self.graph, self.norm, self.shares = graph, norm, shares
        usual = Constants.made(graph, norm, x)  # raises for what has no constant
        self.single, self.of = usual.single, {graph.input: usual.of[graph.input]}
        for node in graph.nodes:
            if node.name in graph.live and nonlinear(node, graph):  # none is steeper than 1
                names = graph.inputs(node)
                parts = [part for name in names for part in stretches(graph, name, self.single)]
                self.of[node.name] = self._sum([self._norm(p) * self.of[p.source] for p in parts])

    def row(self, rows: Tensor) -> Tensor:
        """(R,) constants of <row, answer>, for rows (R, K)."""
        found, length = [], dual(self.norm).length
        for part in stretches(self.graph, self.graph.output, self.single):
            straight, far = part.back(rows).flatten(1), self._absolute(part, rows.abs())
            up = 1 + charge(straight.shape[1] + 8)
            own = length(straight) + self._share(part) * length(far.flatten(1))
            found.append(own * up * self.of[part.source])
        return self._sum(found)

    def _norm(self, part: Stretch) -> Tensor:
        if not part.nodes:
            return operator_norm(part, self.norm)
        out, into = part.sizes
        far = {part.source: torch.ones((), dtype=torch.float64)}
        for node in part.nodes:
            names = [name for name in self.graph.inputs(node) if name in far]
            far[node.name] = self._sum(
                [far[n] * _absolute_norm(part, node.name, n, self.norm) for n in names]
            )
        own = operator_norm(part, self.norm) * (1 + charge(out + into + 32))
        return own + self._share(part) * far[part.sink]

    def _share(self, part: Stretch) -> float:
        """Of all nodes of a stretch, each many times what it loses."""
        return 4 * sum(self.shares[node.name] for node in part.nodes)

    def _absolute(self, part: Stretch, rows: Tensor) -> Tensor:
        """Rows >= 0 times the map with absolute entries, path by path."""
        found = {part.sink: rows.view(-1, *self.single[part.sink].shape[1:])}
        for node in reversed(part.nodes):
            if node.name not in found:
                continue
            row = found.pop(node.name)
            inside = {part.source, *(n.name for n in part.nodes)}
            names = [n for n in self.graph.inputs(node) if n in inside]
            below = absolutely_transposed(node, names, self.single)(row)
            for name, value in zip(names, below, strict=True):
                found[name] = found[name] + value if name in found else value
        return found[part.source]

    @staticmethod
    def _sum(parts: list[Tensor]) -> Tensor:
        return torch.stack(parts).sum(0) * (1 + charge(len(parts) + 8))


def _absolute_norm(part: Stretch, node: str, name: str, norm: Norm) -> Tensor:
    """Of a node's map with absolute entries: by row and column sums."""
    known = part.graph.by_name[node]
    rows, columns = (node_norm(known, name, part.single, n) for n in (Linf(), L1()))
    if isinstance(norm, L2):
        return (rows * columns).sqrt() * (1 + charge(8))
    return rows if isinstance(norm, Linf) else columns


def _locally(graph: Graph, inside: InputSet, rows: Tensor, shares: Mapping[str, float]) -> Tensor:
    """(B, K - 1) the most that sum_i J_i |d_i| can be, by intervals of J (Fast-Lip)."""
    passed = Pass.of(graph, inside, BOUNDS[FAST_LIP.method][-1])
    values: Values = {**graph.run(inside.x), **passed.intervals}
    found = {}
    for node in graph.nodes:
        if node.name in passed.curved:
            inputs = [passed.intervals[name] for name in graph.inputs(node)]
            found[node.name] = slopes(relaxation(node, bind(node.args, values)), inputs)
    steepness = Steepness(graph, passed.walk.single, found, shares)
    reach = torch.maximum(-inside.ball.floor, inside.ball.ceiling)
    whole = InputSet(inside.x, Ball.of(inside.ball.norm, inside.ball.radius, -reach, reach))
    example = torch.arange(len(rows), device=rows.device).repeat_interleave(rows.shape[1])
    flat, lost = rows.flatten(0, 1), []
    largest = max(steepness.single[name].numel() for name in graph.live)
    limit = inside.ball.radius.nan_to_num(0.0, 0.0, 0.0).view(-1, *[1] * (reach.dim() - 1))
    for part in torch.split(torch.arange(len(flat)), max(1, memory.entries() // largest)):
        of = example[part]
        entries = FAST_LIP.entries(steepness, flat[part], of)
        noise = charge(4 * reach[0].numel() + 64) * (entries * (reach + limit)[of]).flatten(1).sum(
            1
        )
        lost.append(-whole.lowest(entries, of) + noise + TINY)
    return torch.cat(lost).view(rows.shape[:2])
