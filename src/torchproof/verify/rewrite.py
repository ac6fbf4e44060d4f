"""Operations that are others in disguise: batch norm is a product and a sum, max pooling a choice
of entries and a maximum, softmax exponentials of differences.

What remains is what the operator tables know.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from torchproof.core.errors import ModelError
from torchproof.verify.graph import Graph, Node, Ref
from torchproof.verify.operators import HARMLESS
from torchproof.verify.rewrite_norms import (
    batch_norm,
    group_norm,
    instance_norm,
    layer_norm,
    per_channel,
    plain_batch_norm,
)
from torchproof.verify.rewrite_pools import adaptive_max_pool, max_pool, max_pool_of_rows
from torchproof.verify.rewrite_reductions import REDUCTIONS, maximum, minimum
from torchproof.verify.steps import Steps


def rewritten(graph: Graph) -> Graph:
    """The graph in the operations of the tables."""
    nodes: list[Node] = []
    many: dict[str, Node] = {}
    for node in graph.nodes:
        if node.kind in SEVERAL or _of_an_axis(node):
            many[node.name] = node
            continue
        source = many.get(node.refs[0]) if node.kind == "getitem" and node.refs else None
        if source is not None:
            if source.kind in FIRST and node.args[1] != 0:
                source = replace(source, kind=f"{source.kind} of indices")
            node = _one_of(node, source)
        rule = REWRITES.get(node.kind) if node.name in graph.live else None
        if rule is None or set(node.named) - NAMED.get(node.kind, HARMLESS):
            nodes.append(node)
            continue
        steps = Steps(node, graph.live)
        nodes += steps.done() if rule(steps, *node.args) else [node]
    return replace(graph, nodes=tuple(nodes))


NAMED = {"add": {"alpha"}, "sub": {"alpha"}, "gelu": {"approximate"},
         "var": {"correction", "keepdim"}, "std": {"correction", "keepdim"}}  # fmt: skip
"""Named arguments that rules look at; nodes with others are left for `check` to refuse."""

SEVERAL = frozenset({"split", "split_with_sizes", "chunk", "unbind", "tensor_split",
                     "_native_batch_norm_legit_no_training"})  # fmt: skip
"""Operations with several answers, of which a `getitem` takes one."""


FIRST = frozenset({"max", "min", "adaptive_max_pool2d", "max_pool2d_with_indices"})
"""The same, which give values and their indices: only of the values is anything known."""


def _of_an_axis(node: Node) -> bool:
    """max(x, axis) has two answers, max(x) and max(x, y) have one."""
    return node.kind in FIRST and len(node.args) > 1 and not isinstance(node.args[1], Ref)


def _one_of(item: Node, source: Node) -> Node:
    index = item.args[1]

    def call(*args: Any) -> Any:
        return source.call(*args)[index]

    return replace(source, name=item.name, call=call)


def _softmax(steps: Steps, x: Any, dim: int, *_: Any) -> bool:
    """1 / sum_j exp(x_j - x_i): no maximum is subtracted, so that bounds stay tight. x_i - x_i is 0
    whatever is known of x_i, so the sum is at least 1 for every method.
    """
    own, others, total = (dim + 1, dim, dim + 1) if dim >= 0 else (dim, dim - 1, dim)
    mine = steps.add("unsqueeze", torch.unsqueeze, x, own)
    each = steps.add("unsqueeze", torch.unsqueeze, x, others)
    apart = steps.add("sub", torch.sub, each, mine)
    apart = steps.add("mul", torch.mul, apart, steps.add("scale", partial(_others, dim), x))
    powers = steps.add("exp", torch.exp, apart)
    summed = steps.add("sum", torch.sum, powers, total)
    steps.add("reciprocal", torch.reciprocal, summed)
    return True


def _others(dim: int, x: Tensor) -> Tensor:
    """1 for two entries along `dim`, 0 for an entry and itself."""
    size, after = x.shape[dim], x.dim() - 1 - dim % x.dim()
    found = 1 - torch.eye(size, dtype=x.dtype, device=x.device)
    return found.view(size, size, *[1] * after)


def _log_softmax(steps: Steps, x: Any, dim: int, *rest: Any) -> bool:
    _softmax(steps, x, dim)
    steps.add("log", torch.log, steps.last)
    return True


def _attention(
    steps: Steps, q: Any, k: Any, v: Any, mask: Any = None, dropout: float = 0.0,
    causal: bool = False, *_: Any,
) -> bool:  # fmt: skip
    if mask is not None or causal:
        raise ModelError(
            f"attention with a mask at {steps.node.where!r}", "attention without", "leave it out"
        )
    turned = steps.add("transpose", torch.transpose, k, -2, -1)
    scores = _pairs(steps, steps.add("mul", torch.mul, q, steps.add("scale", _root, q)), turned)
    _softmax(steps, scores, -1)
    _pairs(steps, steps.last, v)
    return True


def _root(q: Tensor) -> float:
    return 1.0 / math.sqrt(q.shape[-1])


def _matmul(steps: Steps, a: Any, b: Any) -> bool:
    if steps.is_live(a) and steps.is_live(b):
        _pairs(steps, a, b)
        return True
    return False


def _pairs(steps: Steps, a: Any, b: Any) -> Ref:
    """A product of two live matrices as products of entries and a sum."""
    left = steps.add("unsqueeze", torch.unsqueeze, a, -1)
    right = steps.add("unsqueeze", torch.unsqueeze, b, -3)
    return steps.add("sum", torch.sum, steps.add("mul", torch.mul, left, right), -2)


def _div(steps: Steps, a: Any, b: Any, *_: Any) -> bool:
    if not steps.is_live(b):
        return False
    steps.add("mul", torch.mul, a, steps.add("reciprocal", torch.reciprocal, b))
    return True


def _mul(steps: Steps, a: Any, b: Any) -> bool:
    if a != b or not steps.is_live(a):
        return False
    steps.add("square", torch.square, a)
    return True


def _addmm(steps: Steps, bias: Any, a: Any, b: Any) -> bool:
    both = steps.is_live(a) and steps.is_live(b)
    found = _pairs(steps, a, b) if both else steps.add("matmul", torch.matmul, a, b)
    steps.add("add", torch.add, found, bias)
    return True


def _scaled(call: Callable[..., Any], steps: Steps, a: Any, b: Any) -> bool:
    """a + alpha b, or a - alpha b."""
    if "alpha" not in steps.node.named:
        return False
    steps.add(steps.node.kind, call, a, steps.add("mul", torch.mul, b, steps.node.named["alpha"]))
    return True


def _gelu(steps: Steps, x: Any) -> bool:
    exact = steps.node.named.get("approximate", "none") == "none"
    steps.add("gelu" if exact else "gelu_tanh", steps.node.call, x)
    return True


def _rsub(steps: Steps, a: Any, b: Any, alpha: float = 1) -> bool:
    steps.add("sub", torch.sub, b, a if alpha == 1 else steps.add("mul", torch.mul, a, alpha))
    return True


def _power(steps: Steps, x: Any, exponent: Any) -> bool:
    known = POWERS.get(exponent) if isinstance(exponent, (int, float)) else None
    if known is not None:
        steps.add(known.__name__, known, x)
        return True
    if isinstance(exponent, (int, float)) and exponent > 2 and float(exponent).is_integer():
        steps.add("power", torch.pow, x, int(exponent))
        return True
    return False


POWERS: dict[float, Callable[[Tensor], Tensor]] = {
    2: torch.square, 0.5: torch.sqrt, -1: torch.reciprocal, -0.5: torch.rsqrt
}  # fmt: skip


def _extreme(sign: int, steps: Steps, a: Any, b: Any) -> bool:
    """max(a, b) = a + relu(b - a), min(a, b) = a - relu(a - b)."""
    over = (b, a) if sign > 0 else (a, b)
    above = steps.add("relu", torch.relu, steps.add("sub", torch.sub, *over))
    if sign > 0:
        steps.add("add", torch.add, a, above)
    else:
        steps.add("sub", torch.sub, a, above)
    return True


def _greatest(sign: int, steps: Steps, x: Any, other: Any = None, keep: bool = False) -> bool:
    """max and min, of two tensors or over an axis."""
    if isinstance(other, Ref):
        return _extreme(sign, steps, x, other)
    return (maximum if sign > 0 else minimum)(steps, x, other, keep)


def _prelu(steps: Steps, x: Any, weight: Any) -> bool:
    steps.add("prelu", _hinged, x, steps.add("scale", per_channel, weight, x))
    return True


def _hinged(x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x > 0, x, slope * x)


def _aliased(steps: Steps, x: Any, *_: Any) -> bool:
    steps.add("alias", operator.pos, x)
    return True


REWRITES: dict[str, Callable[..., bool]] = {
    "_native_batch_norm_legit_no_training": batch_norm,
    "batch_norm": plain_batch_norm,
    "layer_norm": layer_norm,
    "group_norm": group_norm,
    "softmax": _softmax,
    "_softmax": _softmax,
    "log_softmax": _log_softmax,
    "_log_softmax": _log_softmax,
    "scaled_dot_product_attention": _attention,
    "matmul": _matmul,
    "bmm": _matmul,
    "mm": _matmul,
    "add": partial(_scaled, torch.add),
    "sub": partial(_scaled, torch.sub),
    "gelu": _gelu,
    "addmm": _addmm,
    "mul": _mul,
    "div": _div,
    "rsub": _rsub,
    "pow": _power,
    "maximum": partial(_extreme, 1),
    "minimum": partial(_extreme, -1),
    "max": partial(_greatest, 1),
    "min": partial(_greatest, -1),
    "max_pool1d": max_pool_of_rows,
    "max_pool2d": max_pool,
    "max_pool2d_with_indices": max_pool,
    "adaptive_max_pool2d": adaptive_max_pool,
    "instance_norm": instance_norm,
    "prelu": _prelu,
    "dropout": _aliased,
    **REDUCTIONS,
}
"""Kind -> what to do; it answers False where the node stays as it is."""
