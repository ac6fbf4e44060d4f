"""Affine operations in float64: how many terms are added up, and how large they are together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchproof.verify.graph import Graph, Node, Ref, Values, bind
from torchproof.verify.interval import weighted
from torchproof.verify.operators import AFFINE, RESHAPING
from torchproof.verify.transpose import Transpose, transposed

COPYING = frozenset({*RESHAPING, "sum", "upsample_nearest2d"})
"""Operations whose transpose copies entries, and adds them where one was copied before."""
ARITHMETIC = frozenset({"add", "sub", "neg", "mul", "div"})
AVERAGES = frozenset({"mean", "avg_pool1d", "avg_pool2d", "adaptive_avg_pool1d",
                      "adaptive_avg_pool2d"})  # fmt: skip
WEIGHTED = frozenset(kind for kind, rule in AFFINE.items() if rule is weighted)
COVERED = COPYING | ARITHMETIC | AVERAGES | WEIGHTED


@dataclass(frozen=True)
class Affine:
    """An affine node. transpose takes rows (R, *answer) to rows at its live inputs; offset (1, ...)
    is its value at 0, which is exact, None where that is 0. forward, backward: no entry of the
    answer, or of a transposed row, is made with more roundings; 0: copies, which are exact.
    """

    transpose: Transpose
    offset: Tensor | None
    forward: int
    backward: int


def affine(node: Node, graph: Graph, single: Values) -> Affine:
    """What is known of the node; single: answers to one input."""
    names = graph.inputs(node)
    points = [torch.zeros_like(single[name]) for name in names]
    known = {**single, **dict(zip(names, points, strict=True))}
    start: Tensor = node.call(*bind(node.args, known))
    back = transposed(node, names, single)
    offset = start.detach() if bool((start != 0).any()) else None
    forward = backward = _terms(node, graph, [*points, start], single)
    if node.kind in COPYING:
        copies = max(float(part.max()) for part in back(torch.ones_like(start)))
        backward = round(copies) if copies > 1 else 0
        forward = 0 if node.kind != "sum" else forward
    return Affine(back, offset, forward, backward)


def _terms(node: Node, graph: Graph, tensors: list[Tensor], values: Values) -> int:
    """Roundings of one entry, forward or backward."""
    *inputs, answer = tensors
    if node.kind in ARITHMETIC:  # a transposed row is a sum where the input was broadcast
        return 2 + max(-(-answer.numel() // z.numel()) for z in inputs)
    if node.kind in WEIGHTED:
        weight = _weight(node, graph, values)
        if node.kind in ("linear", "matmul", "mm") and weight.dim() == 2:
            return 2 + max(weight.shape)
        if node.kind.startswith("conv"):
            return 2 + weight.numel() // min(weight.shape[:2])
    return 2 + max(t.numel() for t in tensors)


def _weight(node: Node, graph: Graph, values: Values) -> Tensor:
    """The constant among the first two arguments."""
    names = [a.name for a in node.args[:2] if isinstance(a, Ref)]
    (found,) = (values[name] for name in names if name not in graph.live)
    assert isinstance(found, Tensor)
    return found


def magnitude(node: Node, sizes: Mapping[str, Tensor], values: Values) -> Tensor:
    """(B, ...) the sum of the absolute values of all terms of every entry of the answer, bias
    included, for inputs of at most these sizes; values: of constants.
    """
    args = list(bind(node.args, {n: sizes.get(n, _size(values.get(n))) for n in node.refs}))
    if node.kind in ARITHMETIC:
        args[:2] = [abs(a) for a in args[:2]]
        call: Any = {"sub": torch.add, "neg": torch.abs}.get(node.kind, node.call)
        return torch.as_tensor(call(*args))
    total: Tensor = node.call(*args)
    return total.abs()


def inexact(
    node: Node, sizes: Mapping[str, Tensor], values: Values, found: Mapping[str, Any]
) -> Tensor | None:
    """(B, ...) how far the answer may be off because constants are, which are by `found`."""
    if not any(name in found for name in node.refs):
        return None
    zero = node.kind in ("add", "sub")
    known: Values = {}
    for name in node.refs:
        if name in sizes:
            known[name] = torch.zeros_like(sizes[name]) if zero else sizes[name]
        elif name in found:
            known[name] = found[name]
        else:
            known[name] = _nothing(values[name])
    args = list(bind(node.args, known))
    return torch.as_tensor((torch.add if zero else node.call)(*args))


def takes_inexact(node: Node) -> bool:
    return node.kind in WEIGHTED or node.kind in ("add", "sub", "mul")


def _size(value: Any) -> Any:
    return value.abs() if isinstance(value, Tensor) and value.is_floating_point() else value


def _nothing(value: Any) -> Any:
    number = isinstance(value, Tensor) and value.is_floating_point()
    return torch.zeros_like(value) if number else value


def linear(node: Node, live: Mapping[str, Tensor], values: Values) -> Tensor:
    """(B, ...) L v, without the offset, for live inputs v; values: of constants. What is copied or
    cancelled on the way is exact.
    """
    if node.kind in WEIGHTED:
        args = list(bind(node.args, {**values, **live}))
        return torch.as_tensor(node.call(*_bare(args)))
    if node.kind in ("add", "sub"):
        known = {n: live.get(n, _nothing(values.get(n))) for n in node.refs}
        args = [a if isinstance(a, Tensor) else 0.0 for a in bind(node.args, known)[:2]]
        return torch.as_tensor(node.call(*args))
    zeros = {name: torch.zeros_like(v) for name, v in live.items()}
    answer, zero = (node.call(*bind(node.args, {**values, **part})) for part in (live, zeros))
    return torch.as_tensor(answer - zero)


def spread(node: Node, live: Mapping[str, Tensor], values: Values) -> Tensor:
    """(B, ...) |L| v for live inputs v >= 0."""
    sizes = {n: _size(values.get(n)) for n in node.refs}
    if node.kind in WEIGHTED:
        args = list(bind(node.args, {**sizes, **live}))
        return torch.as_tensor(node.call(*_bare(args)))
    if node.kind in ARITHMETIC:
        sums = node.kind in ("add", "sub")
        known = {n: live.get(n, _nothing(sizes[n]) if sums else sizes[n]) for n in node.refs}
        given = bind(node.args, known)[:2]
        args = [0.0 if sums and not isinstance(a, Tensor) else abs(a) for a in given]
        call: Any = {"sub": torch.add, "neg": torch.abs}.get(node.kind, node.call)
        return torch.as_tensor(call(*args))
    return linear(node, live, values)


def _bare(args: list[Any]) -> list[Any]:
    """Without the bias, which is the third."""
    return [*args[:2], *([None] if len(args) > 2 else []), *args[3:]]
