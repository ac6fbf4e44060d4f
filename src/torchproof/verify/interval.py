"""Intervals, and how each kind of operation moves them (interval bound propagation, Gowal et al.
2019).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchproof.verify.graph import Node, Values, bind


@dataclass(frozen=True)
class Interval:
    """lower <= value <= upper, entry by entry, (B, ...)."""

    lower: Tensor
    upper: Tensor

    def meet(self, other: Interval) -> Interval:
        """What lies in both."""
        return Interval(
            torch.maximum(self.lower, other.lower), torch.minimum(self.upper, other.upper)
        )

    @property
    def width(self) -> Tensor:
        return self.upper - self.lower


Rule = Callable[[Node, Sequence[Any]], Interval]
"""From a node and its arguments, Intervals where they are live, to the interval of its answer."""


def _ends(args: Any) -> tuple[Any, Any]:
    """The arguments with lower, and with upper ends in the place of Intervals."""
    if isinstance(args, Interval):
        return args.lower, args.upper
    if isinstance(args, (list, tuple)):
        pairs = [_ends(part) for part in args]
        return type(args)(p[0] for p in pairs), type(args)(p[1] for p in pairs)
    return args, args


def increasing(node: Node, args: Sequence[Any]) -> Interval:
    """Operations that grow in every live argument: reshaping, averages, sums, monotone functions,
    maxima.
    """
    low, high = _ends(tuple(args))
    return Interval(node.call(*low), node.call(*high))


def decreasing(node: Node, args: Sequence[Any]) -> Interval:
    low, high = _ends(tuple(args))
    return Interval(node.call(*high), node.call(*low))


def difference(node: Node, args: Sequence[Any]) -> Interval:
    """The first argument minus the second."""
    (low, high), (low2, high2) = _ends(args[0]), _ends(args[1])
    return Interval(node.call(low, high2), node.call(high, low2))


def weighted(node: Node, args: Sequence[Any]) -> Interval:
    """Operations that are linear in each of their first two arguments, and add the third: the
    centre moves as it does, the radius with absolute weights. With both arguments live it is the
    centre-radius product |c1| r2 + r1 |c2| + r1 r2.
    """
    first, second, rest = args[0], args[1], list(args[2:])
    bare = [None, *rest[1:]] if rest else []
    c1, r1 = _centre(first)
    c2, r2 = _centre(second)
    middle = node.call(c1, c2, *rest)
    radius = torch.zeros_like(middle)
    if r1 is not None:
        radius = radius + node.call(r1, c2.abs(), *bare)
    if r2 is not None:
        radius = radius + node.call(c1.abs() if r1 is None else c1.abs() + r1, r2, *bare)
    return Interval(middle - radius, middle + radius)


def product(node: Node, args: Sequence[Any]) -> Interval:
    """Entrywise products: the least and the largest of the four corners."""
    (a, b), (c, d) = _ends(args[0]), _ends(args[1])
    corners = [node.call(x, y) for x in (a, b) for y in (c, d)]
    low, high = corners[0], corners[0]
    for corner in corners[1:]:
        low, high = torch.minimum(low, corner), torch.maximum(high, corner)
    return Interval(low, high)


def _centre(value: Any) -> tuple[Any, Tensor | None]:
    if not isinstance(value, Interval):
        return value, None
    radius = (value.upper - value.lower) / 2
    return value.lower + radius, radius


def arguments(node: Node, values: Values) -> Sequence[Any]:
    """The node's arguments, Intervals among them."""
    found: Sequence[Any] = bind(node.args, values)
    return found
