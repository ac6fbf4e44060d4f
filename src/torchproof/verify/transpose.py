"""The transposes of affine operations: rows at the answer to rows at what was read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from torchproof.verify.adjoint import adjoint
from torchproof.verify.graph import Node, Values, bind
from torchproof.verify.operators import APART
from torchproof.verify.window import SLIDING

SMALL = 2**18  # entries of the largest map that is worth a matrix
FEW = 3  # channels
PRODUCTS = ("linear", "matmul", "mm", "bmm")  # matrices already

Transpose = Callable[[Tensor], tuple[Tensor, ...]]
"""Rows (R, *answer) to rows (R, *input) for every live input."""


@dataclass
class Transposed:
    """The vjp of a map at batch one, over many rows; of a small map, once many rows have come, its
    matrix, which is thirty times as fast as a convolution of a few channels.

    back: rows (R, 1, *answer) to (R, 1, *input); outputs: entries of the answer; small: is it?
    """

    back: Transpose
    outputs: int
    small: bool
    _matrices: list[Tensor] = field(default_factory=list)
    _shapes: list[torch.Size] = field(default_factory=list)

    def __call__(self, rows: Tensor) -> tuple[Tensor, ...]:
        if not self._matrices and self.small and 4 * len(rows) >= self.outputs:
            self._make(rows)
        if not self._matrices:
            return tuple(part[:, 0] for part in self.back(rows[:, None]))
        flat = rows.reshape(len(rows), self.outputs)
        pairs = zip(self._matrices, self._shapes, strict=True)
        return tuple((flat @ matrix).view(-1, *shape) for matrix, shape in pairs)

    def _make(self, like: Tensor) -> None:
        unit = torch.eye(self.outputs, dtype=like.dtype, device=like.device)
        for part in self.back(unit.view(-1, 1, *like.shape[1:])):
            self._matrices.append(part.reshape(len(part), -1))
            self._shapes.append(part.shape[2:])


def transposed(node: Node, names: Sequence[str], single: Values) -> Transpose:
    """Of an affine node that reads the live nodes `names`; single: every node's answer to one
    input.
    """
    points = tuple(torch.zeros_like(single[name]) for name in names)

    def affine(*values: Tensor) -> Tensor:
        known = {**single, **dict(zip(names, values, strict=True))}
        answer: Tensor = node.call(*bind(node.args, known))
        return answer

    back = _folded(node, points, single) or adjoint(node, names, single)
    back = back or torch.func.vmap(torch.func.vjp(affine, *points)[1])
    inputs, outputs = sum(point.numel() for point in points), int(single[node.name].numel())
    mixes = node.kind not in APART and node.kind not in PRODUCTS
    return Transposed(back, outputs, mixes and outputs * inputs <= SMALL)


def _folded(node: Node, points: tuple[Tensor, ...], single: Values) -> Transpose | None:
    """Of a convolution of few channels, for which oneDNN, whose numbers are float32, takes two to
    three times as long as a product and a sum over what overlaps.
    """
    like = points[0]
    if node.kind != "conv2d" or like.dtype != torch.float32 or like.device.type != "cpu":
        return None
    arguments = bind(node.args, single)
    slide, weight = SLIDING[node.kind](*arguments), arguments[1]
    if slide is None or weight.shape[1] != like.shape[1] or like.shape[1] > FEW:
        return None
    kernel, stride, padding, dilation, _ = slide
    matrix, size = weight.flatten(1).T, like.shape[2:]

    def back(rows: Tensor) -> tuple[Tensor]:
        parts = matrix @ rows[:, 0].flatten(2)
        return (F.fold(parts, size, kernel, dilation, padding, stride)[:, None],)

    return back
