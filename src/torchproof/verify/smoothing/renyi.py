"""Radii from the Renyi divergence (Li et al. 2019).

Two distributions over classes, the first with pA and pB as its largest probabilities, have
different likeliest classes only if their divergence of order alpha is at least
-log(1 - pA - pB + 2 M), M the power mean of pA and pB with exponent 1 - alpha.
Arguments and result as in `neyman_pearson`; every order gives a valid radius, the largest is taken.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from torchproof.verify.smoothing.maximise import largest
from torchproof.verify.smoothing.probabilities import Floats, bounds, positive

_ORDERS = -9.0, 9.0  # log(alpha - 1)
_HALVINGS = 40
_TINY = np.finfo(np.float64).tiny


def threshold(lower: Floats, upper: Floats, order: Floats) -> Floats:
    """The least divergence of order alpha > 1 at which another class may be the likeliest."""
    power = 1 - order
    logs = (power * np.log(np.maximum(p, _TINY)) for p in (lower, upper))
    mean = np.exp((np.logaddexp(*logs) - np.log(2)) / power)
    found: Floats = -np.log1p(np.minimum(2 * mean - lower - upper, 0.0))
    return found


def gaussian_l2(lower: Any, upper: Any | None, sigma: float) -> Floats:
    """l2, for noise N(0, sigma^2): sqrt of the largest 2 sigma^2 / alpha threshold(alpha) (order by
    order, as there); the divergence at distance L is alpha L^2 / (2 sigma^2).
    """
    positive(sigma=sigma)
    a, b = bounds(lower, upper)

    def square(log_order: Floats) -> Floats:
        order = 1 + np.exp(log_order)
        return 2 / order * threshold(a[..., None], b[..., None], order)

    first, last = (np.full_like(a, end) for end in _ORDERS)
    return np.where(a > b, sigma * np.sqrt(largest(square, first, last)), 0.0)


def laplace_l1(lower: Any, upper: Any | None, scale: float) -> Floats:
    """l1, for Laplace noise of scale b; the order infinity gives -b log(1 - pA + pB), as
    there, which finite orders beat where pB is well below 1 - pA.

    Several coordinates share a distance L without more divergence than one coordinate that moves by
    L: the divergence of two Laplace distributions is convex in their distance.
    """
    positive(scale=scale)
    a, b = bounds(lower, upper)

    def length(log_order: Floats) -> Floats:
        order = 1 + np.exp(log_order)
        return _distance(threshold(a[..., None], b[..., None], order), order)

    first, last = (np.full_like(a, end) for end in _ORDERS)
    endless = -np.log(np.minimum(1 - a + b, 1.0))
    return np.where(a > b, scale * np.maximum(largest(length, first, last), endless), 0.0)


def laplace_divergence(distance: Floats, order: Floats) -> Floats:
    """That of order alpha between Laplace distributions of scale 1 so far apart (Mironov 2017)."""
    near = np.log(order / (2 * order - 1)) + (order - 1) * distance
    far = np.log((order - 1) / (2 * order - 1)) - order * distance
    return np.logaddexp(near, far) / (order - 1)


def _distance(divergence: Floats, order: Floats) -> Floats:
    """A distance at which the divergence is not above the given one, all but the largest."""
    low = divergence  # the divergence never exceeds the distance
    high = low - np.log(order / (2 * order - 1)) / (order - 1)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        below = laplace_divergence(middle, order) <= divergence
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return low
