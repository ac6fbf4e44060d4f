"""The operators of ONNX that look at windows of an image, or have weights for its channels.

Arguments and attributes have the names and defaults of the standard (onnx.ai/onnx/operators).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

Ints = Sequence[int]
_CONV = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}
_DECONV = {3: F.conv_transpose1d, 4: F.conv_transpose2d, 5: F.conv_transpose3d}
_MAXPOOL = {3: F.max_pool1d, 4: F.max_pool2d, 5: F.max_pool3d}
_AVGPOOL: Mapping[int, Callable[..., Tensor]] = {3: F.avg_pool1d, 4: F.avg_pool2d, 5: F.avg_pool3d}


def _padded(
    x: Tensor,
    kernel: Ints,
    strides: Ints,
    dilations: Ints,
    pads: Ints | None,
    auto: str,
    fill: float,
) -> Tensor:
    """x with the padding of a window operation: `pads`, or what `auto_pad` makes of it."""
    n = len(kernel)
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        needed = [
            max((math.ceil(size / s) - 1) * s + (k - 1) * d + 1 - size, 0)
            for size, k, s, d in zip(x.shape[2:], kernel, strides, dilations, strict=True)
        ]
        small, large = [v // 2 for v in needed], [v - v // 2 for v in needed]
        pads = [*small, *large] if auto == "SAME_UPPER" else [*large, *small]
    if pads is None or auto == "VALID" or not any(pads):
        return x
    flat = [p for i in reversed(range(n)) for p in (pads[i], pads[n + i])]  # F.pad: last axis first
    return F.pad(x, flat, value=fill)


def conv(
    x: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Ints | None = None,
    group: int = 1,
    kernel_shape: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Tensor:
    n = w.ndim - 2
    strides, dilations = strides or [1] * n, dilations or [1] * n
    x = _padded(x, w.shape[2:], strides, dilations, pads, auto_pad, 0.0)
    return _CONV[x.ndim](x, w, b, list(strides), 0, list(dilations), group)


def conv_transpose(
    x: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    *,
    dilations: Ints | None = None,
    group: int = 1,
    kernel_shape: Ints | None = None,
    output_padding: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Tensor:
    n = w.ndim - 2
    strides, dilations = list(strides or [1] * n), list(dilations or [1] * n)
    pads, extra = list(pads or [0] * 2 * n), list(output_padding or [0] * n)
    if pads[:n] != pads[n:]:
        raise ValueError(f"pads {pads} that differ at the two ends")
    return _DECONV[x.ndim](x, w, b, strides, pads[:n], extra, group, dilations)


def max_pool(
    x: Tensor,
    *,
    kernel_shape: Ints,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Ints | None = None,
    pads: Ints | None = None,
    storage_order: int = 0,
    strides: Ints | None = None,
) -> Tensor:
    n = len(kernel_shape)
    strides, dilations = strides or [1] * n, dilations or [1] * n
    x = _padded(x, kernel_shape, strides, dilations, pads, auto_pad, -math.inf)
    pool: Callable[..., Tensor] = _MAXPOOL[x.ndim]
    return pool(x, list(kernel_shape), list(strides), 0, list(dilations), bool(ceil_mode))


def average_pool(
    x: Tensor,
    *,
    kernel_shape: Ints,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Tensor:
    """The mean of each window: its sum over the number of pixels that count."""
    n = len(kernel_shape)
    strides, ones = list(strides or [1] * n), [1] * n
    if ceil_mode:
        raise ValueError("ceil_mode, which ONNX and torch count differently")
    pool = _AVGPOOL[x.ndim]
    counted = torch.full_like(x[:1, :1], 1.0)
    x = _padded(x, kernel_shape, strides, ones, pads, auto_pad, 0.0)
    counted = _padded(
        counted, kernel_shape, strides, ones, pads, auto_pad, float(count_include_pad)
    )
    kernel = list(kernel_shape)
    return pool(x, kernel, strides) / pool(counted, kernel, strides)


def batch_normalization(
    x: Tensor,
    scale: Tensor,
    b: Tensor,
    mean: Tensor,
    var: Tensor,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    spatial: int = 1,
    training_mode: int = 0,
) -> Tensor:
    if training_mode or not spatial:
        raise ValueError("batch normalisation as in training, or per pixel")
    return F.batch_norm(x, mean, var, scale, b, False, 0.0, epsilon)


def prelu(x: Tensor, slope: Tensor) -> Tensor:
    """With one slope, or one for each channel, the operation of torch, whose bounds are known."""
    wide = slope.reshape((1,) * (x.ndim - slope.ndim) + tuple(slope.shape))
    if wide.ndim > 1 and wide.numel() in (1, wide.shape[1]) and wide.shape[1] in (1, x.shape[1]):
        return F.prelu(x, slope.flatten())
    return torch.where(x < 0, slope * x, x)
