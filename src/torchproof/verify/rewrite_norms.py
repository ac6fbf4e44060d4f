"""Normalising layers as means, squares, products and sums."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from torchproof.verify.graph import Ref
from torchproof.verify.steps import Steps


def batch_norm(
    steps: Steps, x: Any, weight: Any, bias: Any, mean: Any, var: Any, _: Any, eps: float
) -> bool:
    scale = steps.add("scale", _scale, x, weight, var, eps)
    shift = steps.add("shift", _shift, x, bias, mean, scale)
    steps.add("add", torch.add, steps.add("mul", torch.mul, x, scale), shift)
    return True


def plain_batch_norm(
    steps: Steps, x: Any, mean: Any, var: Any, weight: Any, bias: Any, momentum: float, eps: float
) -> bool:
    """With the arguments in the order of `torch.nn.functional.batch_norm`, in eval mode."""
    return batch_norm(steps, x, weight, bias, mean, var, momentum, eps)


def _scale(x: Tensor, weight: Tensor | None, var: Tensor, eps: float) -> Tensor:
    scale = (var + eps).rsqrt()
    return per_channel(scale if weight is None else weight * scale, x)


def _shift(x: Tensor, bias: Tensor | None, mean: Tensor, scale: Tensor) -> Tensor:
    moved = -per_channel(mean, x) * scale
    return moved if bias is None else moved + per_channel(bias, x)


def per_channel(t: Tensor, x: Tensor) -> Tensor:
    return t.view(1, -1, *[1] * (x.dim() - 2))


def layer_norm(
    steps: Steps, x: Any, shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5,
    *_: Any,
) -> bool:  # fmt: skip
    dims = tuple(range(-len(shape), 0))
    _affine(steps, _normalise(steps, x, dims, eps), weight, bias)
    return True


def group_norm(
    steps: Steps, x: Any, groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5,
    *_: Any,
) -> bool:  # fmt: skip
    grouped = steps.add("view", partial(_grouped, groups), x)
    flat = _normalise(steps, grouped, (-1,), eps)
    even = steps.add("view", _like, flat, steps.add("size", torch.Tensor.size, x))
    parts = (None if t is None else steps.add("scale", per_channel, t, x) for t in (weight, bias))
    _affine(steps, even, *parts)
    return True


def instance_norm(
    steps: Steps, x: Any, weight: Any, bias: Any, mean: Any, var: Any, own: bool, momentum: float,
    eps: float, *_: Any,
) -> bool:  # fmt: skip
    """Each channel by itself; by stored statistics where it has such and is to use them."""
    if own:
        return group_norm(steps, x, 0, weight, bias, eps)
    return batch_norm(steps, x, weight, bias, mean, var, momentum, eps)


def _grouped(groups: int, x: Tensor) -> Tensor:
    """0 for as many as there are channels."""
    return x.reshape(len(x), groups or x.shape[1], -1)


def _like(x: Tensor, size: torch.Size) -> Tensor:
    return x.reshape(len(x), *size[1:])


def _normalise(steps: Steps, x: Any, dims: tuple[int, ...], eps: float) -> Ref:
    """(x - mean) / sqrt(var + eps) over `dims`."""
    mean = partial(torch.mean, dim=dims, keepdim=True)
    centred = steps.add("sub", torch.sub, x, steps.add("mean", mean, x))
    variance = steps.add("mean", mean, steps.add("square", torch.square, centred))
    spread = steps.add("rsqrt", torch.rsqrt, steps.add("add", torch.add, variance, eps))
    return steps.add("mul", torch.mul, centred, spread)


def _affine(steps: Steps, even: Ref, weight: Any, bias: Any) -> None:
    """The last step, whatever there is to do."""
    if weight is not None:
        even = steps.add("mul", torch.mul, even, weight)
    steps.add("add", torch.add, even, 0.0 if bias is None else bias)
