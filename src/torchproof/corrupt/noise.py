"""Noise: Gaussian, shot and impulse, each value of each pixel by itself (Hendrycks and Dietterich
2019). Strengths are those of CIFAR-10-C.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from torchproof.core import keys

_SIGMA = (0.04, 0.06, 0.08, 0.09, 0.10)  # standard deviation of the noise
_PHOTONS = (500.0, 250.0, 100.0, 75.0, 50.0)  # counts that a white pixel stands for
_SHARE = (0.01, 0.02, 0.03, 0.05, 0.07)  # of the values that are replaced
_FEW = 10.0  # expected counts below which every count is tried in turn


def gaussian_noise(x: Tensor, strength: int, key: Tensor) -> Tensor:
    """Normal noise added to every value, as in low light."""
    noise = keys.normal(key, 0, tuple(x.shape[1:]), dtype=x.dtype)
    return x + _SIGMA[strength - 1] * noise


def shot_noise(x: Tensor, strength: int, key: Tensor) -> Tensor:
    """Poisson noise: light counted photon by photon."""
    u = keys.uniform(key, 0, tuple(x.shape[1:]), dtype=x.dtype)
    photons = _PHOTONS[strength - 1]
    return poisson(u, x * photons) / photons


def impulse_noise(x: Tensor, strength: int, key: Tensor) -> Tensor:
    """Salt and pepper: a share of the values is replaced by 0 or 1."""
    share = _SHARE[strength - 1]
    u = keys.uniform(key, 0, tuple(x.shape[1:]), dtype=x.dtype)
    # the lower half of the share is pepper, so that a value once replaced keeps its colour
    salt = keys.signs(key, 1, tuple(x.shape[1:]), dtype=x.dtype) > 0
    return torch.where(u < share, salt.to(x.dtype), x)


def poisson(u: Tensor, mean: Tensor) -> Tensor:
    """The u-quantiles of Poisson distributions, u in (0, 1); shapes are equal.

    Exact below a mean of 10; above it by the expansion of Cornish and Fisher (1938), which is off
    by one for about one in a thousand at 10 and for fewer above.
    """
    few, quantiles = mean < _FEW, _expanded(u, mean)
    quantiles[few] = _counted(u[few], mean[few])
    return quantiles


def _counted(u: Tensor, mean: Tensor) -> Tensor:
    """The smallest k whose distribution function reaches u, k = 0, 1, 2 ..."""
    term = torch.exp(-mean)
    total, count = term.clone(), torch.zeros_like(mean)
    for k in range(1, 48):  # beyond it lies less than the spacing of u
        short = total < u
        if not bool(short.any()):
            break
        count += short
        term = term * mean / k
        total = total + term
    return count


def _expanded(u: Tensor, mean: Tensor) -> Tensor:
    """Quantiles of the smooth distribution that agrees with Poisson's half-way between counts."""
    z = math.sqrt(2) * torch.erfinv(2 * u - 1)
    mean = mean.clamp_min(_FEW)
    variance = mean - 1 / 12  # what the midpoint rule misses of a sum
    root = variance.sqrt()
    skew, peak = mean / (root * variance), mean / variance**2
    bend = skew * (z**2 - 1) / 6
    more = peak * (z**3 - 3 * z) / 24 - skew**2 * (2 * z**3 - 5 * z) / 36
    return (mean + root * (z + bend + more) - 0.5).ceil().clamp_min(0)
