"""Layers whose Lipschitz constant in L2 is at most 1, whatever their weights."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.core.errors import InputError


class AOLLinear(nn.Linear):
    """W diag(d) x + b with d_j = (sum_k |W^T W|_jk)^(-1/2) (Prach and Lampert 2022, thm. 1)."""

    lipschitz: ClassVar[float] = 1.0

    def forward(self, x: Tensor) -> Tensor:
        gram = self.weight.T @ self.weight
        return F.linear(x, self.weight * _scale(gram.abs().sum(1)), self.bias)


class AOLConv2d(nn.Conv2d):
    """A convolution with input channels rescaled so that its norm is at most 1: d_c = (sum over
    channels and shifts of |the kernel's correlation with itself|)^(-1/2) (Prach and Lampert 2022,
    thm. 2). It holds with zeros around the image and with a stride, which only leave entries out.

    Raises InputError for an impossible kernel or padding.
    """

    lipschitz: ClassVar[float] = 1.0

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int = 1,
        padding: int = 0,
        bias: bool = True,
    ) -> None:
        if kernel < 1 or padding < 0:
            given = f"kernel = {kernel}, padding = {padding}"
            raise InputError(given, "kernel >= 1, padding >= 0", "write kernel=3, padding=1")
        super().__init__(inputs, outputs, kernel, stride, padding, bias=bias)
        self.around = padding

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.weight.transpose(0, 1)
        around = [size - 1 for size in self.kernel_size]
        together = F.conv2d(kernel, kernel, padding=(around[0], around[1]))
        weight = self.weight * _scale(together.abs().sum((1, 2, 3))).view(1, -1, 1, 1)
        return F.conv2d(x, weight, self.bias, self.stride, self.around)


class MaxMin(nn.Module):
    """Pairs of channels sorted (Anil et al. 2019): (max(a, b), min(a, b)), a permutation of what it
    reads, so that gradients keep their length. Raises InputError for an odd number of channels.
    """

    lipschitz: ClassVar[float] = 1.0

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] % 2:
            raise InputError(f"{x.shape[1]} channels", "an even number", "make the layer wider")
        a, b = x.chunk(2, dim=1)
        return torch.cat([torch.maximum(a, b), torch.minimum(a, b)], 1)


def _scale(sums: Tensor) -> Tensor:
    """sums^(-1/2), and 0 for a column of nothing."""
    some = sums > 0
    return torch.where(some, torch.where(some, sums, torch.ones_like(sums)).rsqrt(), 0.0)
