"""The linear part of affine operations, forward: what noise and tangents go through."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from torchproof.verify.graph import Node, Values, bind
from torchproof.verify.memory import hold, in_pieces

Map = Callable[..., Tensor]
"""Values at every live input to what comes of them."""


def forwarded(node: Node, names: Sequence[str], single: Values, linear: Map | None = None) -> Map:
    """f(v) - f(0) of an affine node that reads the live nodes `names`, for values (R, 1, ...); in
    pieces as memory allows. single: every node's answer to one input; linear: another way to the
    same, for values (1, ...).
    """

    def call(*values: Tensor) -> Tensor:
        known = {**single, **dict(zip(names, values, strict=True))}
        answer: Tensor = node.call(*bind(node.args, known))
        return answer

    if linear is None:
        zero = call(*(torch.zeros_like(single[name]) for name in names))
    many: Map = torch.func.vmap(linear or (lambda *values: call(*values) - zero))
    largest = max(int(single[name].numel()) for name in (node.name, *names))
    return lambda *parts: in_pieces(many, parts, largest)


def hold_noise(
    noise: Iterable[tuple[str, Tensor]], node: Node, names: Sequence[str], single: Values
) -> None:
    """Raises ModelError where the coefficients (B, symbols, ...) at a node and at what it reads are
    beyond the limit on memory; noise: by where it came in, of all that the node reads.
    """
    symbols = {source: len(part) * part.shape[1] for source, part in noise}
    around = sum(int(single[name].numel()) for name in (node.name, *names))
    hold(sum(symbols.values()) * around, "a zonotope")
