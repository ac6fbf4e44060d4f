"""Upper bounds of spectral norms: power iteration comes from below, Gram iteration from above."""

from __future__ import annotations

import math

import torch
from torch import Tensor

GRAMS = 10
"""Gram steps: the excess is at most rank^(2^-(GRAMS + 1)), below 0.4 % for a rank of 2048."""


def gram_bound(matrix: Tensor, steps: int = GRAMS) -> Tensor:
    """(...) upper bounds of the largest singular values of matrices (..., m, n), in float64.

    ||W|| <= ||(W* W)^(2^(k-1))||_F^(1/2^k) after k steps (Delattre et al. 2023, alg. 1), rescaled
    in every step; it falls towards the norm. Room for rounding: a product errs by less than
    n u ||W||^2, and ||G|| >= ||G||_F / sqrt(n), so n^2 u in all, with n the longer side.
    """
    wide = torch.complex128 if matrix.is_complex() else torch.float64
    gram = matrix.to(wide)
    if gram.shape[-1] > gram.shape[-2]:
        gram = gram.mH
    longest, log = gram.shape[-2], torch.zeros(gram.shape[:-2], dtype=torch.float64).to(gram.device)
    for _ in range(steps):
        size = _frobenius(gram)
        safe = torch.where(size > 0, size, torch.ones_like(size))
        gram, log = gram / safe[..., None, None], log + safe.log()
        gram, log = gram.mH @ gram, 2 * log
    found = (log * 0.5**steps).exp() * _frobenius(gram) ** (0.5**steps)
    return found * (1 + longest**2 * torch.finfo(torch.float64).eps)


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
    (Delattre et al. 2023). The excess is that of the torus, which fades as the input grows.
    """
    kernel = _spaced(weight.double(), dilation)
    kernel, taps = _phases(kernel, stride)
    across = [
        math.ceil((size[i] + 2 * padding[i]) / stride[i]) + taps[i] for i in range(2)
    ]  # fmt: skip
    waves = torch.fft.fft2(kernel, s=across).flatten(2)  # (out, in, frequencies)
    blocks = waves.unflatten(0, (groups, -1)).permute(0, 3, 1, 2)
    return gram_bound(blocks, steps).amax()


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
