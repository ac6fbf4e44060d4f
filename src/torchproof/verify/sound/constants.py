"""What a network works out of its weights alone, such as the scale of batch norm, and how far it
may be from real arithmetic on the weights.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torchproof.verify.graph import SHAPES, Graph, Node, Values, bind
from torchproof.verify.operators import RESHAPING
from torchproof.verify.rewrite_norms import per_channel
from torchproof.verify.sound.rounding import U, charge

COPIES = frozenset({*RESHAPING, "neg", "abs", "lift_fresh_copy", *SHAPES}) - {"scale", "shift"}
ROUNDED = frozenset({"add", "sub", "mul", "div", "reciprocal", "sqrt", "rsqrt"})
SINGLE = 8 * U
"""The relative error of one operation, or of a scale: a root, a quotient and a product."""


def doubts(graph: Graph, values: Values) -> tuple[dict[str, Any], list[Node]]:
    """Error bounds of constants that are not exact, by name, and the nodes that have no rule."""
    found: dict[str, Any] = {}
    strange: list[Node] = []
    for node in graph.nodes:
        value: Any = values.get(node.name)
        number = (
            value.is_floating_point() if isinstance(value, Tensor) else isinstance(value, float)
        )
        if node.name in graph.live or not number:
            continue
        rounded = node.kind in ROUNDED or (node.kind == "scale" and node.call is not per_channel)
        inexact = [name for name in node.refs if name in found]
        if node.kind == "shift":
            found[node.name] = _shift(node, values, found)
        elif (
            len(inexact) == 1 and (node.kind == "mul" or node.refs == (*inexact,)) and carries(node)
        ):
            known = {name: found.get(name, values.get(name)) for name in node.refs}
            carried = node.call(*bind(node.args, known))
            found[node.name] = 2 * abs(carried) + SINGLE * abs(value)
        elif inexact or not (node.kind in COPIES or rounded or node.kind == "scale"):
            strange.append(node)
        elif rounded and getattr(value, "dtype", torch.float64) != torch.float64:
            strange.append(node)  # worked out in float32
        elif rounded:
            found[node.name] = SINGLE * abs(value)
    return found, strange


def carries(node: Node) -> bool:
    """Are answers off by the same operation on what its argument is off by?"""
    return node.kind == "mul" or node.kind in RESHAPING


def _shift(node: Node, values: Values, found: dict[str, Any]) -> Tensor:
    """Of batch norm: bias - mean * scale."""
    bias, mean, scale = bind(node.args[1:], values)
    means = mean.abs().view(scale.shape)
    error: Tensor = charge(4) * means * scale.abs() + means * found.get(node.args[3].name, 0.0)
    return error if bias is None else error + charge(4) * bias.abs().view(scale.shape)
