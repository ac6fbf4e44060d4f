"""Radii from differential privacy (PixelDP: Lecuyer et al. 2019).

Where the noise makes the class (e, delta)-private at distance L, the class is the same if
pA > exp(2e) pB + (1 + exp(e)) delta (proposition 1
there). Arguments and result as in
`neyman_pearson`; never above that radius.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from torchproof.verify.smoothing.maximise import largest
from torchproof.verify.smoothing.probabilities import Floats, bounds, positive


def gaussian_l2(lower: Any, upper: Any | None, sigma: float) -> Floats:
    """l2, for noise N(0, sigma^2), which is (e, delta)-private at L = sigma e / sqrt(2 ln(1.25 /
    delta)) for e <= 1 (Dwork and Roth 2014, theorem A.1).

    The largest L over e; L grows with delta, which is therefore what the condition leaves for it.
    """
    positive(sigma=sigma)
    a, b = bounds(lower, upper)
    sure = a > b
    most = np.where(sure, np.minimum(np.log(np.where(sure, a, 1) / np.where(sure, b, 1)) / 2, 1), 0)

    def length(e: Floats) -> Floats:
        delta = (a[..., None] - np.exp(2 * e) * b[..., None]) / (1 + np.exp(e))
        held = delta > 0
        return np.where(held, e / np.sqrt(2 * np.log(1.25 / np.where(held, delta, 1.0))), 0.0)

    return sigma * largest(length, np.zeros_like(a), most)


def laplace_l1(lower: Any, upper: Any | None, scale: float) -> Floats:
    """b / 2 log(pA / pB), l1, for Laplace noise of scale b, which is (L / b, 0)-private at L (Dwork
    et al. 2006).
    """
    positive(scale=scale)
    a, b = bounds(lower, upper)
    return scale / 2 * np.log(np.maximum(a, b) / b)
