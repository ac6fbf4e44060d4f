"""Digital faults: contrast, elastic deformation, large pixels and JPEG (Hendrycks and Dietterich
2019).

Strengths are those of CIFAR-10-C, but for the elastic ones, whose affine part falls in theirs while
the local part rises. Deviation: a large pixel is made of whole small ones.
"""

from __future__ import annotations

import importlib
import io
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchproof.core import keys
from torchproof.core.errors import MissingExtra
from torchproof.corrupt.sampling import moved, positions, smoothed, unit

_CONTRAST = (0.75, 0.50, 0.40, 0.30, 0.15)  # what is left of it
_ELASTIC = ((0.3, 0.5), (0.45, 0.8), (0.6, 1.1), (0.75, 1.4), (0.9, 1.7))  # pixels: local, affine
_ELASTIC_SIGMA = 2.5  # pixels over which local shifts are alike
_PIXELS = (0.95, 0.90, 0.85, 0.75, 0.65)  # of the pixels per side that are left
_QUALITY = (80, 65, 58, 50, 40)  # of JPEG


def contrast(x: Tensor, strength: int, key: Tensor) -> Tensor:
    """Less contrast: every channel drawn to its mean."""
    mean = x.mean((2, 3), keepdim=True)
    return mean + _CONTRAST[strength - 1] * (x - mean)


def elastic_transform(x: Tensor, strength: int, key: Tensor) -> Tensor:
    """Rubber: local shifts, and a random affine map."""
    local, affine = (value * unit(x) for value in _ELASTIC[strength - 1])
    noise = keys.normal(key, 0, (2, *x.shape[-2:]), dtype=x.dtype)
    sigma = _ELASTIC_SIGMA * unit(x)
    # a smoothed field of unit variance has the variance 1 / (4 pi sigma^2)
    shift = smoothed(noise, sigma) * (local * 2 * math.sqrt(math.pi) * sigma)
    rows, columns = positions(x)
    third = min(x.shape[-2:]) / 3
    down, right = (rows - rows.mean()) / third, (columns - columns.mean()) / third
    u = keys.uniform(key, 1, (6, 1, 1), dtype=x.dtype) * 2 - 1
    skew = [affine * (u[:, i] + u[:, i + 1] * down + u[:, i + 2] * right) for i in (0, 3)]
    return moved(x, shift[:, 0] + skew[0], shift[:, 1] + skew[1])


def pixelate(x: Tensor, strength: int, key: Tensor) -> Tensor:
    """Larger pixels: each block of old ones shows their mean."""
    for axis in (2, 3):
        blocks = _blocks(x.shape[axis], _PIXELS[strength - 1], x)
        x = (x.transpose(axis, 3) @ blocks).transpose(axis, 3)
    return x


def _blocks(side: int, share: float, like: Tensor) -> Tensor:
    """(side, side) the matrix that averages over `share` * side neighbouring blocks."""
    left = max(1, int(side * share))
    number = ((torch.arange(side, device=like.device) + 0.5) * left / side).long()
    together = (number[:, None] == number).to(like.dtype)
    return together / together.sum(1)


def jpeg_compression(x: Tensor, strength: int, key: Tensor) -> Tensor:
    """Saved as JPEG by pillow, and read again.

    Raises MissingExtra without pillow.
    """
    pillow = _pillow()
    levels = x.mul(255).round().to("cpu", torch.uint8).permute(0, 2, 3, 1).numpy()
    read = [_resaved(pillow, image, _QUALITY[strength - 1]) for image in levels]
    stacked = torch.from_numpy(np.stack(read)).permute(0, 3, 1, 2)
    return stacked.to(x.device, x.dtype) / 255


def _pillow() -> Any:
    try:
        return importlib.import_module("PIL.Image")
    except Exception as error:  # a broken installation may raise anything
        remedy = "run `pip install pillow`"
        raise MissingExtra(f"no pillow ({error})", "pillow, to write JPEG", remedy) from error


def _resaved(pillow: Any, image: np.ndarray, quality: int) -> np.ndarray:
    """(H, W, C) bytes after a round trip through JPEG."""
    file = io.BytesIO()
    flat = image[..., 0] if image.shape[2] == 1 else image
    pillow.fromarray(flat).save(file, "JPEG", quality=quality)
    return np.asarray(pillow.open(file)).reshape(image.shape)
