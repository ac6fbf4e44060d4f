"""The operators of ONNX as functions of tensors: one row of OPS each, arguments and attributes by
name.

Attributes are keywords with the defaults of the standard (onnx.ai/onnx/operators). One that a
function does not name is refused when the file is read, never ignored. Inputs that moved between
attribute and tensor with the operator-set version are taken either way.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from torchproof.nn import onnx_windows as windows

Ints = Sequence[int]
DTYPES = {
    **{1: torch.float32, 2: torch.uint8, 3: torch.int8, 5: torch.int16, 6: torch.int32},
    **{7: torch.int64, 9: torch.bool, 10: torch.float16, 11: torch.float64, 16: torch.bfloat16},
}


def _ints(value: Tensor | Ints | int | None) -> list[int] | None:
    if value is None:
        return None
    found = value.tolist() if isinstance(value, Tensor) else value
    return [int(v) for v in found] if isinstance(found, Sequence) else [int(found)]


def gemm(
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Tensor:
    out = (a.t() if transA else a) @ (b.t() if transB else b)
    out = out if alpha == 1.0 else alpha * out
    if c is None:
        return out
    return out + (c if beta == 1.0 else beta * c)


def flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    return x.reshape(math.prod(x.shape[: axis if axis >= 0 else x.ndim + axis]), -1)


def reshape(x: Tensor, shape: Tensor, *, allowzero: int = 0) -> Tensor:
    """A 0 keeps the size of that axis, unless `allowzero`."""
    wanted = _ints(shape) or []
    return x.reshape([x.shape[i] if n == 0 and not allowzero else n for i, n in enumerate(wanted)])


def transpose(x: Tensor, *, perm: Ints | None = None) -> Tensor:
    return x.permute(list(perm) if perm else list(reversed(range(x.ndim))))


def squeeze(x: Tensor, at: Tensor | None = None, *, axes: Ints | None = None) -> Tensor:
    found = _ints(at if at is not None else axes)
    return x.squeeze() if found is None else x.squeeze(tuple(found))


def unsqueeze(x: Tensor, at: Tensor | None = None, *, axes: Ints | None = None) -> Tensor:
    found = _ints(at if at is not None else axes) or []
    rank = x.ndim + len(found)
    for axis in sorted(a % rank for a in found):
        x = x.unsqueeze(axis)
    return x


def slice_(
    x: Tensor,
    first: Tensor | None = None,
    last: Tensor | None = None,
    along: Tensor | None = None,
    every: Tensor | None = None,
    *,
    starts: Ints | None = None,
    ends: Ints | None = None,
    axes: Ints | None = None,
) -> Tensor:
    begins = _ints(first if first is not None else starts) or []
    stops = _ints(last if last is not None else ends) or []
    where = _ints(along if along is not None else axes) or list(range(len(begins)))
    steps = _ints(every) or [1] * len(begins)
    for begin, stop, axis, step in zip(begins, stops, where, steps, strict=True):
        kept = range(x.shape[axis])[begin:stop:step]
        x = x.index_select(axis, torch.tensor(list(kept), dtype=torch.int64, device=x.device))
    return x


def gather(x: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    """Rows of `axis`; negative indices count from its end."""
    axis %= x.ndim
    rows = torch.where(indices < 0, indices + x.shape[axis], indices)
    picked = x.index_select(axis, rows.reshape(-1))
    return picked.reshape([*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]])


def pad(
    x: Tensor,
    by: Tensor | None = None,
    fill: Tensor | None = None,
    along: Tensor | None = None,
    *,
    mode: str = "constant",
    pads: Ints | None = None,
    value: float = 0.0,
) -> Tensor:
    sizes, n = _ints(by if by is not None else pads) or [], x.ndim
    axes = _ints(along) or list(range(n))
    if mode != "constant":
        raise ValueError(f"padding of mode {mode!r}")
    ends = {a % n: (sizes[i], sizes[len(axes) + i]) for i, a in enumerate(axes)}
    flat = [p for axis in reversed(range(n)) for p in ends.get(axis, (0, 0))]
    return F.pad(x, flat, value=value if fill is None else float(fill))


def clip(
    x: Tensor,
    low: Tensor | float | None = None,
    high: Tensor | float | None = None,
    *,
    min: float = -math.inf,
    max: float = math.inf,
) -> Tensor:
    least = torch.as_tensor(min if low is None else low, dtype=x.dtype, device=x.device)
    most = torch.as_tensor(max if high is None else high, dtype=x.dtype, device=x.device)
    return x.clamp(least, most)


def reduction(by: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The ONNX form of a reduction `by(x, axes, keepdim)`."""

    def reduced(
        x: Tensor,
        at: Tensor | None = None,
        *,
        axes: Ints | None = None,
        keepdims: int = 1,
        noop_with_empty_axes: int = 0,
    ) -> Tensor:
        found = _ints(at if at is not None else axes)
        if not found and noop_with_empty_axes:
            return x
        return by(x, tuple(found or range(x.ndim)), bool(keepdims))

    return reduced


def pooled(by: Callable[..., Tensor]) -> Callable[[Tensor], Tensor]:
    """A reduction over all pixels."""
    return lambda x: by(x, tuple(range(2, x.ndim)), True)


def expand(x: Tensor, shape: Tensor) -> Tensor:
    """Broadcast both ways: an axis that `shape` says 1 of keeps its size."""
    return x.broadcast_to(np.broadcast_shapes(tuple(x.shape), tuple(_ints(shape) or [])))


def div(a: Tensor, b: Tensor) -> Tensor:
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def matmul(a: Tensor, b: Tensor) -> Tensor:
    return a @ b


def cast(x: Tensor, *, to: int, saturate: int = 1) -> Tensor:
    return x.to(DTYPES[to])


def shape_of(x: Tensor, *, start: int = 0, end: int | None = None) -> Tensor:
    return torch.tensor(list(x.shape[start:end]), dtype=torch.int64, device=x.device)


def dropout(
    x: Tensor,
    ratio_in: Tensor | None = None,
    training: Tensor | None = None,
    *,
    ratio: float = 0.5,
    seed: int = 0,
) -> Tensor:
    if training is not None and bool(training):
        raise ValueError("dropout as in training")
    return x


def elu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return F.elu(x, alpha)


def leaky_relu(x: Tensor, *, alpha: float = 0.01) -> Tensor:
    return F.leaky_relu(x, alpha)


def softmax(x: Tensor, *, axis: int = -1) -> Tensor:
    return x.softmax(axis)


def log_softmax(x: Tensor, *, axis: int = -1) -> Tensor:
    return x.log_softmax(axis)


def flat_softmax(x: Tensor, *, axis: int = 1) -> Tensor:
    """Before operator set 13: over all axes from `axis` on."""
    return flatten(x, axis=axis).softmax(-1).reshape(x.shape)


def flat_log_softmax(x: Tensor, *, axis: int = 1) -> Tensor:
    return flatten(x, axis=axis).log_softmax(-1).reshape(x.shape)


def gelu(x: Tensor, *, approximate: str = "none") -> Tensor:
    return F.gelu(x, approximate=approximate)


def concat(*tensors: Tensor, axis: int) -> Tensor:
    return torch.cat(tensors, axis)


OPS: Mapping[str, Callable[..., Any]] = {
    "Abs": lambda x: x.abs(),
    "Add": lambda a, b: a + b,
    "AveragePool": windows.average_pool,
    "BatchNormalization": windows.batch_normalization,
    "Cast": cast,
    "Clip": clip,
    "Concat": concat,
    "Conv": windows.conv,
    "ConvTranspose": windows.conv_transpose,
    "Div": div,
    "Dropout": dropout,
    "Elu": elu,
    "Erf": lambda x: x.erf(),
    "Exp": lambda x: x.exp(),
    "Expand": expand,
    "Flatten": flatten,
    "Gather": gather,
    "Gelu": gelu,
    "Gemm": gemm,
    "GlobalAveragePool": pooled(torch.mean),
    "GlobalMaxPool": pooled(torch.amax),
    "Identity": lambda x: x,
    "LeakyRelu": leaky_relu,
    "Log": lambda x: x.log(),
    "LogSoftmax": log_softmax,
    "MatMul": matmul,
    "Max": lambda *tensors: functools.reduce(torch.maximum, tensors),
    "MaxPool": windows.max_pool,
    "Min": lambda *tensors: functools.reduce(torch.minimum, tensors),
    "Mul": lambda a, b: a * b,
    "Neg": lambda x: -x,
    "PRelu": windows.prelu,
    "Pad": pad,
    "Pow": lambda a, b: a**b,
    "Reciprocal": lambda x: 1 / x,
    "ReduceL2": reduction(lambda x, at, keep: torch.linalg.vector_norm(x, 2, at, keep)),
    "ReduceMax": reduction(torch.amax),
    "ReduceMean": reduction(torch.mean),
    "ReduceSum": reduction(torch.sum),
    "Relu": lambda x: x.relu(),
    "Reshape": reshape,
    "Shape": shape_of,
    "Sigmoid": lambda x: x.sigmoid(),
    "Slice": slice_,
    "Softmax": softmax,
    "Softplus": lambda x: F.softplus(x),
    "Sqrt": lambda x: x.sqrt(),
    "Squeeze": squeeze,
    "Sub": lambda a, b: a - b,
    "Sum": lambda *tensors: functools.reduce(torch.add, tensors),
    "Tanh": lambda x: x.tanh(),
    "Transpose": transpose,
    "Unsqueeze": unsqueeze,
}
"""Operator name -> function; `Constant` is read by the importer. A missing one is added here."""

BEFORE_13: Mapping[str, Callable[..., Any]] = {
    **OPS,
    "LogSoftmax": flat_log_softmax,
    "Softmax": flat_softmax,
}
"""OPS with what some operators meant before operator set 13."""
