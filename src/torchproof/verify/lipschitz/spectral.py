"""Upper bounds of spectral norms: power iteration comes from below, Gram iteration from above."""

from __future__ import annotations

import math

import torch
from torch import Tensor

TINY = 1e-156  # more than matrices whose squares are all below 2^-1074
GRAMS = 10
"""Gram steps: the excess is at most rank^(2^-(GRAMS + 1)), below 0.4 % for a rank of 2048."""


def gram_bound(matrix: Tensor, steps: int = GRAMS) -> Tensor:
    """(...) upper bounds of the largest singular values of matrices (..., m, n), in float64.

    ||W|| <= ||(W* W)^(2^(k-1))||_F^(1/2^k) after k steps (Delattre et al. 2023, alg. 1), rescaled
    in every step; it falls towards the norm. Rounded up: with G = W / s of ||G||_F = 1, whatever
    the number s is, the product G* G is off by less than (4 n + 32) eps in ||.||_F, division and
    complex numbers included, n the longer side; so ||W|| <= s sqrt(||G* G|| + that), back through
    the steps, from the last Frobenius norm.
    """
    wide = torch.complex128 if matrix.is_complex() else torch.float64
    gram = matrix.to(wide)
    if gram.shape[-1] > gram.shape[-2]:
        gram = gram.mH
    eps, sizes = torch.finfo(torch.float64).eps, list[Tensor]()
    room = (4 * gram.shape[-2] + 32) * eps
    for _ in range(steps):
        sizes.append(_frobenius(gram))
        safe = torch.where(sizes[-1] > 0, sizes[-1], torch.ones_like(sizes[-1]))
        gram = gram / safe[..., None, None]
        gram = gram.mH @ gram
    found = _frobenius(gram) * (1 + gram.shape[-1] * gram.shape[-2] * eps)
    for size in reversed(sizes):
        found = size * (found + room).sqrt() * (1 + 8 * eps)
    return found + TINY


def _frobenius(matrix: Tensor) -> Tensor:
    size: Tensor = torch.linalg.matrix_norm(matrix)
    return size


def conv_bound(
    weight: Tensor,
    size: tuple[int, int],
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
    steps: int = GRAMS,
) -> Tensor:
    """An upper bound, (), of the spectral norm of a convolution on inputs of `size` (H, W); weight
    (out, in / groups, kh, kw).

    With zeros around it the input lies on a torus so large that nothing wraps around, where the
    convolution is a matrix (out, in) per frequency (Sedghi et al. 2019); cutting and padding have
    norm 1. A stride makes every s-th pixel a channel of its own. Gram iteration bounds each matrix
    (Delattre et al. 2023). The excess is that of the torus, which fades as the input grows. A
    Fourier transform of N entries is taken to be off by at most 32 log2(2 N) eps of its length,
    which is more than the bound for powers of two (Higham 2002, thm. 24.2).
    """
    kernel = _spaced(weight.double(), dilation)
    kernel, taps = _phases(kernel, stride)
    across = [
        math.ceil((size[i] + 2 * padding[i]) / stride[i]) + taps[i] for i in range(2)
    ]  # fmt: skip
    waves = torch.fft.fft2(kernel, s=across).flatten(2)  # (out, in, frequencies)
    blocks = waves.unflatten(0, (groups, -1)).permute(0, 3, 1, 2)
    many = across[0] * across[1]  # a block is off by no more than all frequencies together
    rounding = 32 * math.log2(2 * many) * torch.finfo(torch.float64).eps * math.sqrt(many)
    found: Tensor = gram_bound(blocks, steps).amax() + rounding * kernel.norm()
    return found


def _spaced(weight: Tensor, dilation: tuple[int, int]) -> Tensor:
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, weight.shape[2:], strict=True)]
    made = weight.new_zeros(*weight.shape[:2], *reach)
    made[:, :, :: dilation[0], :: dilation[1]] = weight
    return made


def _phases(kernel: Tensor, stride: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
    """The kernel of stride 1 on an image whose channels are the phases of the grid."""
    missing = [-k % s for k, s in zip(kernel.shape[2:], stride, strict=True)]
    padded = torch.nn.functional.pad(kernel, (0, missing[1], 0, missing[0]))
    out, into, high, wide = padded.shape
    taps = (high // stride[0], wide // stride[1])
    split = padded.view(out, into, taps[0], stride[0], taps[1], stride[1])
    return split.permute(0, 1, 3, 5, 2, 4).reshape(out, -1, *taps), taps
