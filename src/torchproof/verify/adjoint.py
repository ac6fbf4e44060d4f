"""Transposes of the usual affine operations, written out.

`torch.func.vjp` does the same for any operation, and remains for all others; but it imports the
compiler of torch, a second of start-up, and takes several times as long for small maps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from torchproof.verify.graph import Node, Ref, Values, bind

Back = Callable[[Tensor], tuple[Tensor, ...]]
"""Rows (R, 1, *answer) to rows (R, 1, *input) for every live input."""

Maker = Callable[[Node, Sequence[Any], Sequence[int], Tensor], "Back | None"]
"""From a node, its arguments with values in the place of Refs, the places of the live ones and its
answer to one input.
"""


def adjoint(node: Node, names: Sequence[str], single: Values) -> Back | None:
    """The transpose of a node in its live inputs `names`; None where it is not written out."""
    if node.kind not in ADJOINTS or node.named:
        return None
    live = [i for i, a in enumerate(node.args) if isinstance(a, Ref) and a.name in names]
    if tuple(node.args[i].name for i in live) != tuple(names) or not live or live[0] > 1:
        return None
    return ADJOINTS[node.kind](node, bind(node.args, single), live, single[node.name])


def _reshaped(node: Node, args: Sequence[Any], live: Sequence[int], answer: Tensor) -> Back | None:
    shape = args[0].shape
    return lambda rows: (rows.reshape(len(rows), *shape),)


def _turned(node: Node, args: Sequence[Any], live: Sequence[int], answer: Tensor) -> Back | None:
    """permute(x, axes): the axis 0 of x, its only row, stays where it is."""
    axes = [a % args[0].ndim for a in args[1]]
    back = [axes.index(axis) + 1 for axis in range(len(axes))]
    return lambda rows: (rows.permute(0, *back),)


def _sum(sign: float) -> Maker:
    def made(node: Node, args: Sequence[Any], live: Sequence[int], answer: Tensor) -> Back | None:
        if len(args) != 2 or any(args[i].shape != answer.shape for i in live):
            return None  # one that is repeated in the answer
        return lambda rows: tuple(rows if i == 0 or sign > 0 else -rows for i in live)

    return made


def _scaled(node: Node, args: Sequence[Any], live: Sequence[int], answer: Tensor) -> Back | None:
    """x * c or c * x, and x / c."""
    (place,) = live if len(live) == 1 else (-1,)
    if place < 0 or len(args) != 2 or args[place].shape != answer.shape:
        return None
    by = args[1 - place]
    if node.kind == "div":
        return (lambda rows: (rows / by,)) if place == 0 else None
    return lambda rows: (rows * by,)


def _linear(node: Node, args: Sequence[Any], live: Sequence[int], answer: Tensor) -> Back | None:
    weight = args[1]
    return (lambda rows: (rows @ weight,)) if list(live) == [0] and weight.ndim == 2 else None


def _product(node: Node, args: Sequence[Any], live: Sequence[int], answer: Tensor) -> Back | None:
    """x @ w for a matrix w and rows of x."""
    a, b = args[:2]
    if list(live) != [0] or b.ndim != 2 or a.ndim < 2:
        return None
    return lambda rows: (rows @ b.mT,)


def _convolved(node: Node, args: Sequence[Any], live: Sequence[int], answer: Tensor) -> Back | None:
    """By the function that autograd calls itself, the rows as its batch."""
    x, weight, _, stride, padding, dilation, groups = (*args, *_CONV[len(args) - 2 :])
    axes = weight.ndim - 2
    if list(live) != [0] or isinstance(padding, str) or x.ndim != weight.ndim:
        return None
    sizes = [list(s) * (axes // len(s)) if isinstance(s, (list, tuple)) else [s] * axes
             for s in (stride, padding, dilation)]  # fmt: skip
    if any(len(size) != axes for size in sizes):
        return None

    def back(rows: Tensor) -> tuple[Tensor]:
        like = x.expand(len(rows), *x.shape[1:])
        found = torch.ops.aten.convolution_backward(
            rows[:, 0], like, weight, None, *sizes, False, [0] * axes, groups, [True, False, False]
        )[0]
        return (found[:, None],)

    return back


_CONV: tuple[Any, ...] = (None, 1, 0, 1, 1)
"""The defaults of bias, stride, padding, dilation and groups."""

ADJOINTS: Mapping[str, Maker] = {
    **dict.fromkeys(("view", "reshape", "_unsafe_view", "flatten", "unsqueeze", "squeeze", "alias",
                     "clone", "contiguous"), _reshaped),
    "permute": _turned,
    "add": _sum(1.0),
    "sub": _sum(-1.0),
    "mul": _scaled,
    "div": _scaled,
    "linear": _linear,
    "matmul": _product,
    "mm": _product,
    "conv1d": _convolved,
    "conv2d": _convolved,
}  # fmt: skip
