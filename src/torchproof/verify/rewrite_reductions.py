"""Reductions over axes as sums, squares, exponentials and maxima of a row."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from torchproof.core.errors import ModelError
from torchproof.verify.graph import Ref
from torchproof.verify.steps import Steps


def maximum(steps: Steps, x: Any, dims: Any = None, keep: bool = False) -> bool:
    """amax over one or more axes: they become one row, whose maximum is taken."""
    if not _axes(dims):
        return False
    steps.add("row_max", partial(torch.amax, dim=-1), _as_row(steps, x, dims))
    if keep:
        steps.add("view", partial(_kept, _axes(dims)), steps.last)
    return True


def minimum(steps: Steps, x: Any, dims: Any = None, keep: bool = False) -> bool:
    if not _axes(dims):
        return False
    maximum(steps, steps.add("neg", torch.neg, x), dims, keep)
    steps.add("neg", torch.neg, steps.last)
    return True


def log_sum_exp(steps: Steps, x: Any, dims: Any, keep: bool = False) -> bool:
    """x_0 + log(1 + sum_j exp(x_j - x_0)): no maximum is subtracted, so that bounds stay tight."""
    if not _axes(dims):
        return False
    row = _as_row(steps, x, dims)
    first = steps.add("narrow", torch.narrow, row, -1, 0, 1)
    rest = steps.add("slice", _rest, row)
    powers = steps.add("exp", torch.exp, steps.add("sub", torch.sub, rest, first))
    total = steps.add("add", torch.add, steps.add("sum", torch.sum, powers, -1), 1.0)
    logged = steps.add("log", torch.log, total)
    steps.add("add", torch.add, steps.add("select", torch.select, first, -1, 0), logged)
    if keep:
        steps.add("view", partial(_kept, _axes(dims)), steps.last)
    return True


def variance(
    steps: Steps, x: Any, dims: Any = None, unbiased: bool = True, keep: bool = False
) -> bool:
    """The mean of squares of what differs from the mean, times n / (n - correction)."""
    if not _axes(dims):
        return False
    named = steps.node.named
    correction = named.get("correction")
    less = float(unbiased) if correction is None else float(correction)
    mean = partial(torch.mean, dim=_axes(dims), keepdim=True)
    centred = steps.add("sub", torch.sub, x, steps.add("mean", mean, x))
    kept = partial(torch.mean, dim=_axes(dims), keepdim=named.get("keepdim", keep))
    squares = steps.add("mean", kept, steps.add("square", torch.square, centred))
    steps.add("mul", torch.mul, squares, steps.add("scale", partial(_share, _axes(dims), less), x))
    return True


def deviation(steps: Steps, x: Any, dims: Any = None, *rest: Any) -> bool:
    if not variance(steps, x, dims, *rest):
        return False
    steps.add("sqrt", torch.sqrt, steps.last)
    return True


def length(steps: Steps, x: Any, order: Any = 2, dims: Any = None, keep: bool = False) -> bool:
    """The l1, l2 or linf norm over axes."""
    if not _axes(dims) or order not in (1, 2, math.inf):
        return False
    total = partial(torch.sum, dim=_axes(dims), keepdim=keep)
    if order == 2:
        steps.add("sqrt", torch.sqrt, steps.add("sum", total, steps.add("square", torch.square, x)))
    elif order == 1:
        steps.add("sum", total, steps.add("abs", torch.abs, x))
    else:
        maximum(steps, steps.add("abs", torch.abs, x), dims, keep)
    return True


def running_sum(steps: Steps, x: Any, dim: int) -> bool:
    """cumsum, as a product with a triangle of ones."""
    last = steps.add("movedim", torch.movedim, x, dim, -1)
    summed = steps.add("matmul", torch.matmul, last, steps.add("scale", _triangle, last))
    steps.add("movedim", torch.movedim, summed, -1, dim)
    return True


def gated(steps: Steps, x: Any, dim: int = -1) -> bool:
    """glu: the first half times the sigmoid of the second."""
    first, second = (steps.add("narrow", partial(_half, part, dim), x) for part in (0, 1))
    steps.add("mul", torch.mul, first, steps.add("sigmoid", torch.sigmoid, second))
    return True


def _axes(dims: Any) -> tuple[int, ...]:
    """Empty for all axes, the batch's among them, and for what is no axis."""
    if isinstance(dims, bool):  # var(x, unbiased), of all axes
        return ()
    found = dims if isinstance(dims, (list, tuple)) else (dims,)
    return tuple(found) if all(isinstance(d, int) for d in found) else ()


def _as_row(steps: Steps, x: Any, dims: Any) -> Ref:
    return steps.add("index", partial(_row, _axes(dims)), x)


def _row(dims: tuple[int, ...], x: Tensor) -> Tensor:
    """x with `dims` as one last axis."""
    places = sorted(d % x.dim() for d in dims)
    return x.movedim(places, tuple(range(-len(places), 0))).flatten(-len(places))


def _rest(x: Tensor) -> Tensor:
    return x[..., 1:]


def _kept(dims: tuple[int, ...], x: Tensor) -> Tensor:
    """x with axes of length one in the places of `dims`."""
    whole = x.dim() + len(dims)
    for place in sorted(d % whole for d in dims):
        x = x.unsqueeze(place)
    return x


def _share(dims: tuple[int, ...], less: float, x: Tensor) -> float:
    count = math.prod(x.shape[d] for d in dims)
    if count <= less:
        given = f"a variance of {count} entries with correction {less:g}"
        raise ModelError(given, "more entries than the correction", "write correction=0")
    return count / (count - less)


def _triangle(x: Tensor) -> Tensor:
    return torch.ones(x.shape[-1], x.shape[-1], dtype=x.dtype, device=x.device).triu()


def _half(part: int, dim: int, x: Tensor) -> Tensor:
    return x.chunk(2, dim)[part]


REDUCTIONS: dict[str, Callable[..., bool]] = {
    "amax": maximum,
    "amin": minimum,
    "logsumexp": log_sum_exp,
    "var": variance,
    "std": deviation,
    "linalg_vector_norm": length,
    "cumsum": running_sum,
    "glu": gated,
}
