"""l2 radii for noise N(0, sigma^2) from f-divergences (Dvijotham et al. 2020).

D_f(nu, rho) = E_rho[f(d nu / d rho)] between the noise around another input and around this one
bounds what a class can gain: the class is the same wherever the divergence is below the least at
which a distribution over (class, another, the rest) may have nu(class) <= nu(another) (as
there; here by minimising over the three numbers). Arguments and result as in `neyman_pearson`,
never above that radius; for the hockey-stick divergences, which reach it, see `hockey_stick`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import ndtri

from torchproof.verify.smoothing.probabilities import Floats, bounds, positive


def _roots(a: Floats, b: Floats) -> Floats:
    """(sqrt(pA) - sqrt(pB))^2, 0 where pA <= pB."""
    found: Floats = np.square(np.maximum(np.sqrt(a) - np.sqrt(b), 0.0))
    return found


def kullback_leibler_l2(lower: Any, upper: Any | None, sigma: float) -> Floats:
    """f = t log t: least -log(1 - (sqrt(pA) - sqrt(pB))^2), at distance L it is L^2 / (2
    sigma^2).
    """
    positive(sigma=sigma)
    a, b = bounds(lower, upper)
    found: Floats = sigma * np.sqrt(-2 * np.log1p(-_roots(a, b)))
    return found


def hellinger_l2(lower: Any, upper: Any | None, sigma: float) -> Floats:
    """f = 1 - sqrt(t): least 1 - sqrt(1 - (sqrt(pA) - sqrt(pB))^2 / 2), at distance L it is
    1 - exp(-L^2 / (8 sigma^2)).
    """
    positive(sigma=sigma)
    a, b = bounds(lower, upper)
    found: Floats = sigma * np.sqrt(-4 * np.log1p(-_roots(a, b) / 2))
    return found


def chi_square_l2(lower: Any, upper: Any | None, sigma: float) -> Floats:
    """f = (t - 1)^2: least D^2 / (S - D^2) with D = pA - pB and S = pA + pB, at distance L it is
    exp(L^2 / sigma^2) - 1.
    """
    positive(sigma=sigma)
    a, b = bounds(lower, upper)
    gap = np.maximum(a - b, 0.0)
    return sigma * np.sqrt(-np.log1p(-gap * gap / (a + b)))


def total_variation_l2(lower: Any, upper: Any | None, sigma: float) -> Floats:
    """f = |t - 1| / 2: least (pA - pB) / 2, at distance L it is 2 Phi(L / (2 sigma)) - 1."""
    positive(sigma=sigma)
    a, b = bounds(lower, upper)
    found: Floats = 2 * sigma * ndtri(0.5 + np.maximum(a - b, 0.0) / 4)
    return found
