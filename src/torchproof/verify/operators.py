"""What is known of each kind of operation: a few tables. An operation in none of them is refused by
name, with its source line.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch.nn import functional as F

from torchproof.core.errors import ModelError
from torchproof.verify.graph import Graph, Node
from torchproof.verify.interval import (
    Rule,
    decreasing,
    difference,
    increasing,
    product,
    weighted,
)
from torchproof.verify.relax import Curve, Hinge, Largest, Product, Relaxation

# Affine operations and how intervals go through them. Their transpose is their vjp: no code each.
RESHAPING = (
    "view", "reshape", "_unsafe_view", "flatten", "unflatten", "permute", "transpose", "t",
    "unsqueeze", "squeeze", "expand", "slice", "select", "cat", "stack", "clone", "contiguous",
    "alias", "constant_pad_nd", "pad", "index", "index_select", "repeat", "_to_copy", "to", "roll",
    "flip", "narrow", "movedim", "split", "split_with_sizes", "chunk", "unbind", "detach", "tile",
)  # fmt: skip
AFFINE: dict[str, Rule] = {
    **dict.fromkeys(RESHAPING, increasing),
    "add": increasing,
    "sum": increasing,
    "mean": increasing,
    "avg_pool1d": increasing,
    "avg_pool2d": increasing,
    "adaptive_avg_pool1d": increasing,
    "adaptive_avg_pool2d": increasing,
    "upsample_nearest2d": increasing,
    "upsample_bilinear2d": increasing,
    "neg": decreasing,
    "sub": difference,
    "linear": weighted,
    "matmul": weighted,
    "mm": weighted,
    "bmm": weighted,
    "mul": product,
    "div": product,
    "conv1d": weighted,
    "conv2d": weighted,
    "conv3d": weighted,
    "conv_transpose1d": weighted,
    "conv_transpose2d": weighted,
}

APART = frozenset({*RESHAPING, "add", "sub", "neg", "mul", "div"})
"""Affine operations of one live argument that mix no entries."""

Maker = Callable[..., Relaxation]
"""From the arguments after the first of an operation to what is known of it."""


def _leaky(slope: Any = 0.01, *_: Any) -> Relaxation:
    return Hinge(slope) if 0 <= slope <= 1 else Curve(partial(F.leaky_relu, negative_slope=slope),
                                                      (0.0,))  # fmt: skip


def _prelu(slope: torch.Tensor) -> Relaxation:
    if bool(((slope >= 0) & (slope <= 1)).all()):
        return Hinge(slope)
    return Curve(lambda z: torch.where(z > 0, z, slope * z), (0.0,))


def _elu(alpha: float = 1.0, scale: float = 1.0, rate: float = 1.0, *_: Any) -> Relaxation:
    def function(z: torch.Tensor) -> torch.Tensor:
        return scale * torch.where(z > 0, z, alpha * torch.expm1(rate * z.clamp_max(0)))

    return Curve(function, (0.0,))


def _power(n: int) -> Relaxation:
    power = partial(torch.pow, exponent=n)
    return Curve(power, (0.0,)) if n % 2 else Curve(power, floor=0.0)


def _clamp(low: Any = None, high: Any = None, *_: Any) -> Relaxation:
    given = [end for end in (low, high) if end is not None]
    if any(isinstance(end, torch.Tensor) and end.numel() > 1 for end in given):
        expected = "numbers, or torch.minimum and torch.maximum"
        raise ModelError("limits of clamp that differ from entry to entry", expected, "use these")
    ends = tuple(map(float, given))
    return Curve(partial(torch.clamp, min=low, max=high), ends)


def _softplus(beta: float = 1.0, threshold: float = 20.0, *_: Any) -> Relaxation:
    # torch goes over to z beyond the threshold, which is log(1 + exp(-threshold)) / beta less
    jump = (max(-threshold, 0.0) + math.log1p(math.exp(-abs(threshold)))) / abs(beta)
    function = partial(F.softplus, beta=beta, threshold=threshold)
    return Curve(function, (threshold / beta,), jump=jump)


# where the second derivatives change sign
GELU, GELU_TANH, SILU = math.sqrt(2), 1.4185040087908278, 2.3993572805154675
MISH = (-2.2563763963607935, 1.4905711794854282)

RELAXED: dict[str, Maker] = {
    "relu": lambda *_: Hinge(),
    "leaky_relu": _leaky,
    "prelu": _prelu,
    "row_max": lambda *_: Largest(),
    "sigmoid": lambda *_: Curve(torch.sigmoid, (0.0,)),
    "tanh": lambda *_: Curve(torch.tanh, (0.0,)),
    "atan": lambda *_: Curve(torch.atan, (0.0,)),
    "erf": lambda *_: Curve(torch.erf, (0.0,)),
    "gelu": lambda *_: Curve(F.gelu, (-GELU, GELU)),
    "gelu_tanh": lambda *_: Curve(partial(F.gelu, approximate="tanh"), (-GELU_TANH, GELU_TANH)),
    "silu": lambda *_: Curve(F.silu, (-SILU, SILU)),
    "mish": lambda *_: Curve(F.mish, MISH),
    "elu": _elu,
    "celu": lambda alpha=1.0, *_: _elu(alpha, 1.0, 1.0 / alpha),
    "selu": lambda *_: _elu(1.6732632423543772, 1.0507009873554805),
    "softplus": _softplus,
    "log_sigmoid": lambda *_: Curve(F.logsigmoid),
    "hardtanh": lambda low=-1.0, high=1.0, *_: _clamp(low, high),
    "relu6": lambda *_: _clamp(0.0, 6.0),
    "clamp": _clamp,
    "clamp_min": _clamp,
    "clamp_max": lambda high, *_: _clamp(None, high),
    "hardswish": lambda *_: Curve(F.hardswish, (-3.0, 3.0)),
    "hardsigmoid": lambda *_: Curve(F.hardsigmoid, (-3.0, 3.0)),
    "abs": lambda *_: Curve(torch.abs, (0.0,)),
    "square": lambda *_: Curve(torch.square, floor=0.0),
    "power": _power,
    "exp": lambda *_: Curve(torch.exp),
    "log": lambda *_: Curve(torch.log, above=0.0),
    "sqrt": lambda *_: Curve(torch.sqrt, above=0.0),
    "rsqrt": lambda *_: Curve(torch.rsqrt, above=0.0),
    "reciprocal": lambda *_: Curve(torch.reciprocal, above=0.0),
}


def nonlinear(node: Node, graph: Graph) -> bool:
    """Does the node need lines?"""
    if node.kind == "mul":
        return len([a for a in node.args if getattr(a, "name", None) in graph.live]) == 2
    return node.kind in RELAXED


def relaxation(node: Node, arguments: Sequence[Any]) -> Relaxation:
    """What is known of a nonlinear node with these arguments, values in the place of Refs."""
    return Product() if node.kind == "mul" else RELAXED[node.kind](*arguments[1:])


def check(graph: Graph) -> None:
    """Raises ModelError that names every operation of the graph that no table has, or not for such
    arguments: what a rule does not expect may make it wrong.
    """
    known = {*AFFINE, *RELAXED}
    strange = [n for n in graph.nodes if n.name in graph.live and not _expected(n, graph)]
    if strange:
        told = "; ".join(f"{_said(n)} at {n.where!r}" for n in strange)
        raise ModelError(
            f"operations without a rule: {told}",
            f"those of {', '.join(sorted(known))}",
            "write the network with those, or add a row to torchproof.verify.operators",
        )


def try_on(graph: Graph, one: torch.Tensor) -> None:
    """Raises ModelError where the first axis of what depends on the input is not the batch's, which
    rules and transposes take it for, and where a value is not finite: rules multiply it with zeros.
    Tried with one (1, ...) and with three of it: a batch of three may be as long as an axis of
    channels.
    """
    for x in (one, torch.cat([one, one, one])):
        with torch.no_grad():
            values = graph.run(x)
        for node in graph.nodes:
            value = values[node.name]
            if node.name not in graph.live or not torch.is_tensor(value):
                continue
            if value.shape[:1] != x.shape[:1]:
                raise ModelError(
                    f"{node.kind} at {node.where!r}, which answers {tuple(value.shape)} to "
                    f"an input of {tuple(x.shape)}",
                    "the batch as the first axis throughout",
                    "write the network so that other axes alone are moved or joined",
                )
            if not bool(value.isfinite().all()):
                raise ModelError(
                    f"{node.kind} at {node.where!r}, which answers infinity or NaN to the input",
                    "finite values throughout",
                    "give pooling its padding itself, and leave masks of -inf out",
                )


# named arguments that change no value
HARMLESS = frozenset({"memory_format", "device", "layout", "pin_memory", "non_blocking", "copy"})


def _expected(node: Node, graph: Graph) -> bool:
    if node.kind not in AFFINE and node.kind not in RELAXED:
        return False
    for name, value in node.named.items():
        kept = name == "dtype" and value in (None, torch.float32, torch.float64)  # others round
        if name not in HARMLESS and not kept:
            return False
    live = [i for i, a in enumerate(node.args) if getattr(a, "name", None) in graph.live]
    if AFFINE.get(node.kind) is weighted or node.kind == "div":
        return len(live) == 1 and live[0] < 2
    return node.kind not in RELAXED or live == [0]


def _said(node: Node) -> str:
    named = ", ".join(f"{k}={v!r}" for k, v in node.named.items() if k not in HARMLESS)
    return f"{node.kind}({named})" if named else node.kind
