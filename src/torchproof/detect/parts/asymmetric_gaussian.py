"""The asymmetric generalised Gaussian, fitted to samples by moments, differentiably.

Density proportional to exp(-(|x| / b)^alpha) with a scale b of its own on either side of 0 (Lasmar,
Stitou and Berthoumieu 2009); alpha = 2 is normal, 1 is Laplace.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

LOW, HIGH = 0.2, 10.0  # shapes that are looked for
CELLS, NEWTON = 400, 4
_TINY = 1e-300


class Moments(NamedTuple):
    """Of samples: ratio, (E|x|)^2 / E x^2 (g^3 + 1)(g + 1) / (g^2 + 1)^2, g = sigma_l / sigma_r;
    left, right: sigma_l^2 and sigma_r^2, the mean squares of the samples below and above 0.
    """

    ratio: Tensor
    left: Tensor
    right: Tensor


class Shape(NamedTuple):
    """alpha: shape; eta: mean; left, right: the variances sigma_l^2, sigma_r^2 of the two sides."""

    alpha: Tensor
    eta: Tensor
    left: Tensor
    right: Tensor


def moments(x: Tensor) -> Moments:
    """Of samples x (B, N), each (B,) float64. A side without samples has variance 0.

    Differentiable in x but where a sample changes sides: how many there are on either counts as
    constant.
    """
    x = x.double()
    square = x.square()
    left, right = ((square * side).sum(1) / side.sum(1).clamp_min(1) for side in ((x < 0), (x > 0)))
    low, high = (side.clamp_min(_TINY).sqrt() for side in (left, right))
    ratio = x.abs().mean(1).square() / square.mean(1).clamp_min(_TINY)
    # in g and 1 / g alike, so without dividing one side by the other
    lopsided = (low**3 + high**3) * (low + high) / (low**2 + high**2).square().clamp_min(_TINY)
    return Moments(ratio * lopsided, left, right)


def law_of(found: Moments) -> Shape:
    """As in Mittal, Moorthy and Bovik 2012: alpha solves rho(alpha) = ratio and is kept in [0.2,
    10]; eta = (sigma_r - sigma_l) sqrt(G(1/alpha) / G(3/alpha)) G(2/alpha) / G(1/alpha).

    Moments of any shape, and so what comes back. Samples that are all 0 give (0.2, 0, 0, 0).
    """
    alpha = shape_of(found.ratio)
    a, b, c = (torch.lgamma(i / alpha) for i in (1, 2, 3))
    low, high = (side.clamp_min(_TINY).sqrt() for side in (found.left, found.right))
    return Shape(alpha, (high - low) * torch.exp((a - c) / 2 + b - a), found.left, found.right)


def fit_asymmetric(x: Tensor) -> Shape:
    """Each (B,) float64, from samples x (B, N); differentiable as `moments` is."""
    return law_of(moments(x))


def shape_of(ratio: Tensor) -> Tensor:
    """alpha in [0.2, 10] with rho(alpha) = ratio, which rises with alpha: bracketed in a table, and
    found by Newton's method. Its derivative is 1 / rho'(alpha), and 0 beyond the ends.
    """
    with torch.no_grad():
        table = torch.logspace(
            math.log10(LOW), math.log10(HIGH), CELLS + 1, dtype=ratio.dtype, device=ratio.device
        )
        cell = torch.searchsorted(rho(table), ratio.contiguous()).clamp(1, CELLS)
        low, high = table[cell - 1], table[cell]
        alpha = (low + high) / 2
        for _ in range(NEWTON):
            alpha = alpha - (rho(alpha) - ratio) / _slope(alpha)
            alpha = torch.minimum(torch.maximum(alpha, low), high)
        slope = _slope(alpha)
        inside = (alpha > LOW) & (alpha < HIGH)
    change = (ratio - ratio.detach()) / slope  # 0 in value
    return alpha + torch.where(inside, change, 0.0)


def _slope(alpha: Tensor) -> Tensor:
    """rho'(alpha)."""
    a, b, c = (i * torch.digamma(i / alpha) for i in (1, 2, 3))
    return rho(alpha) * (a - 2 * b + c) / alpha**2


def rho(alpha: Tensor) -> Tensor:
    """G(2/alpha)^2 / (G(1/alpha) G(3/alpha)), which is (E|x|)^2 / E x^2 of the symmetric one."""
    a, b, c = (torch.lgamma(i / alpha) for i in (1, 2, 3))
    return torch.exp(2 * b - a - c)
