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


def _ends(
    x: Tensor, kernel: Ints, strides: Ints, dilations: Ints, pads: Ints | None, auto: str
) -> list[int]:
    """How much is padded before and after each axis: `pads`, or what `auto_pad` makes of it."""
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        needed = [
            max((math.ceil(size / s) - 1) * s + (k - 1) * d + 1 - size, 0)
            for size, k, s, d in zip(x.shape[2:], kernel, strides, dilations, strict=True)
        ]
        small, large = [v // 2 for v in needed], [v - v // 2 for v in needed]
        return [*small, *large] if auto == "SAME_UPPER" else [*large, *small]
    return [0] * 2 * len(kernel) if pads is None or auto == "VALID" else list(pads)


def _padded(
    x: Tensor, kernel: Ints, strides: Ints, dilations: Ints, pads: Ints | None, auto: str
) -> Tensor:
    """x with the zeros around it that a window operation asks for."""
    n, pads = len(kernel), _ends(x, kernel, strides, dilations, pads, auto)
    if not any(pads):
        return x
    flat = [p for i in reversed(range(n)) for p in (pads[i], pads[n + i])]  # F.pad: last axis first
    return F.pad(x, flat)


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
    x = _padded(x, w.shape[2:], strides, dilations, pads, auto_pad)
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
    strides, dilations = list(strides or [1] * n), list(dilations or [1] * n)
    ends = _ends(x, kernel_shape, strides, dilations, pads, auto_pad)
    small, large, kernel = ends[:n], ends[n:], list(kernel_shape)
    pool: Callable[..., Tensor] = _MAXPOOL[x.ndim]
    even = small == large and all(2 * p <= k for p, k in zip(small, kernel, strict=True))
    if even and not ceil_mode:
        return pool(x, kernel, strides, small, dilations)
    # windows that begin in the padding behind the image are none
    most = [(b + size - 1) // s + 1 for b, size, s in zip(small, x.shape[2:], strides, strict=True)]
    x = _bordered(x, kernel, dilations, small, large)
    found = pool(x, kernel, strides, 0, dilations, bool(ceil_mode))
    for axis, count in enumerate(most):
        found = found.narrow(axis + 2, 0, min(count, found.shape[axis + 2]))
    return found


def _bordered(
    x: Tensor, kernel: list[int], dilations: list[int], small: list[int], large: list[int]
) -> Tensor:
    """x with -inf around it; with copies of its border instead, which are finite, where no window
    without gaps sees one without the border itself: the maximum is the same.
    """
    n = len(kernel)
    if any(d != 1 for d in dilations) or any(
        max(small[i], large[i]) >= kernel[i] for i in range(n)
    ):
        flat = [p for i in reversed(range(n)) for p in (small[i], large[i])]
        return F.pad(x, flat, value=-math.inf)
    for axis, (before, after) in enumerate(zip(small, large, strict=True)):
        if before or after:
            size = x.shape[axis + 2]
            places = torch.arange(-before, size + after, device=x.device).clamp(0, size - 1)
            x = x.index_select(axis + 2, places)
    return x


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
    counted = torch.ones(1, 1, *x.shape[2:], dtype=x.dtype, device=x.device)
    kernel = list(kernel_shape)
    x = _padded(x, kernel_shape, strides, ones, pads, auto_pad)
    if count_include_pad:
        return pool(x, kernel, strides)
    counted = _padded(counted, kernel_shape, strides, ones, pads, auto_pad)
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
