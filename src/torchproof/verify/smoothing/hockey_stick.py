"""l2 radii for noise N(0, sigma^2) from all hockey-stick divergences together (Dvijotham et al.
2020).

For any beta >= 0, nu(S) <= beta rho(S) + E_rho[(d nu / d rho - beta)_+]. The best beta for "not
this class" and the best for "another class" give, together, what the Neyman-Pearson lemma gives
(a theorem there): found here by search, not by that formula, as a check of it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import ndtr

from torchproof.verify.smoothing.maximise import largest
from torchproof.verify.smoothing.probabilities import Floats, bounds, positive

_FAR = 9.0  # sigmas: no float64 probability is decided further out
_HALVINGS = 48


def gain(log_beta: Floats, distance: Floats) -> Floats:
    """E_rho[(d nu / d rho - beta)_+] for nu = N(L, 1), rho = N(0, 1), L > 0."""
    crossing = log_beta / distance
    beyond = ndtr(distance / 2 - crossing)
    found: Floats = np.maximum(beyond - np.exp(log_beta) * ndtr(-distance / 2 - crossing), 0.0)
    return found


def most(p: Floats, distance: Floats) -> Floats:
    """The least upper bound that any beta gives for the probability nu(S), where rho(S) <= p."""
    far = np.full_like(p, _FAR)

    def negative(edge: Floats) -> Floats:  # beta is the likelihood ratio at the edge
        log_beta = distance[..., None] * (edge - distance[..., None] / 2)
        return -(np.exp(log_beta) * p[..., None] + gain(log_beta, distance[..., None]))

    return -largest(negative, -far, far)


def gaussian_l2(lower: Any, upper: Any | None, sigma: float) -> Floats:
    """The largest distance, found by bisection, at which nu(class) > nu(another) is certain."""
    positive(sigma=sigma)
    a, b = bounds(lower, upper)
    low, high = np.zeros_like(a), np.full_like(a, _FAR)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        holds = most(1 - a, middle) + most(b, middle) < 1
        low, high = np.where(holds, middle, low), np.where(holds, high, middle)
    return np.where(a > b, sigma * low, 0.0)
