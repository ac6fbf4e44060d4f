"""Radii from the Neyman-Pearson lemma: the worst classifier that agrees with the probabilities is
a level set of the likelihood ratio.

All take pA (a lower bound), pB (an upper one, 1 - pA if None) as `probabilities.bounds` does, and
give radii (...) in input units, 0 where pA <= pB. The class is the same everywhere nearer than the
radius.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import ndtri

from torchproof.verify.smoothing.probabilities import Floats, bounds, positive, whole


def gaussian_l2(lower: Any, upper: Any | None, sigma: float) -> Floats:
    """sigma / 2 (Phi^-1(pA) - Phi^-1(pB)), l2, for noise N(0, sigma^2) (Cohen, Rosenfeld and Kolter
    2019, theorem 1); sigma Phi^-1(pA) with pB = 1 - pA. Tight.
    """
    positive(sigma=sigma)
    a, b = bounds(lower, upper)
    found: Floats = np.maximum(sigma / 2 * (ndtri(a) - ndtri(b)), 0.0)
    return found


def laplace_l1(lower: Any, upper: Any | None, scale: float) -> Floats:
    """max{b / 2 log(pA / pB), -b log(1 - pA + pB)}, l1, for Laplace noise of scale b (Teng, Lee and
    Yuan 2020). The second form is the larger one, and tight, with pB = 1 - pA.
    """
    positive(scale=scale)
    a, b = bounds(lower, upper)
    ratio = np.log(np.maximum(a, b) / b) / 2
    return scale * np.maximum(ratio, -np.log(np.minimum(1 - a + b, 1.0)))


def uniform_l1(lower: Any, upper: Any | None, half_width: float) -> Floats:
    """lambda (pA - pB), l1, for noise uniform in [-lambda, lambda]^d (Lee et al. 2019; Yang et al.
    2020); 2 lambda (pA - 1/2) with pB = 1 - pA. Tight.
    """
    positive(half_width=half_width)
    a, b = bounds(lower, upper)
    return np.maximum(half_width * (a - b), 0.0)


def linf_of_l2(radius: Any, dimension: int) -> Floats:
    """radius / sqrt(d): the linf ball inside an l2 ball of R^d. From class probabilities alone no
    noise gives more than a constant times that (Yang et al. 2020; Blum et al. 2020).
    """
    whole(1, dimension=dimension)
    found: Floats = np.asarray(radius, np.float64) / np.sqrt(dimension)
    return found
