"""Normalisation as the first layer of a network, so that every threat is stated for images in [0,
1].
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from torchproof.core.errors import InputError


class Normalise(nn.Module):
    """(x - mean) / std per channel, x (B, C, H, W) in [0, 1], `mean` and `std` in the same units.

    Numbers, or one number per channel. They are buffers `mean` and `std` of shape (1, 1, 1, 1) or
    (1, C, 1, 1): they follow the model's device and dtype and are saved with it. With mean 0 and
    std 1 the layer answers x itself, bit for bit.

    Raises InputError for no number, a number that is not finite, or a std that is not positive.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, mean: float | Sequence[float] = 0.0, std: float | Sequence[float] = 1.0
    ) -> None:
        super().__init__()
        self.register_buffer("mean", _channels("mean", mean))
        self.register_buffer("std", _channels("std", std))
        if not bool((self.std > 0).all()):
            remedy = "give the standard deviation of the images in [0, 1], for example 0.25"
            raise InputError(f"std={std!r}", "positive numbers", remedy)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std

    def extra_repr(self) -> str:
        return f"mean={self.mean.flatten().tolist()}, std={self.std.flatten().tolist()}"


def _channels(name: str, value: float | Sequence[float]) -> Tensor:
    """One number, or one per channel, as a tensor (1, 1 or C, 1, 1)."""
    numbers = [float(v) for v in value] if isinstance(value, Sequence) else [float(value)]
    if not numbers or not all(math.isfinite(v) for v in numbers):
        remedy = "give one finite number, or one per channel"
        raise InputError(f"{name}={value!r}", "finite numbers", remedy)
    return torch.tensor(numbers).reshape(1, -1, 1, 1)
