"""l0 radii from images of which only k pixels are kept (Levine and Feizi 2020)."""

from __future__ import annotations

from typing import Any

import numpy as np

from torchproof.core.errors import InputError
from torchproof.verify.smoothing.probabilities import Floats, bounds, whole


def unseen(keep: int, pixels: int) -> Floats:
    """(d - k + 1,) for r = 0, 1, ..., d - k: the probability that none of r given pixels is among k
    of d kept ones, C(d - r, k) / C(d, k); rounded down.
    """
    check(keep, pixels)
    left = pixels - np.arange(pixels - keep, dtype=np.float64)
    share = np.cumprod(np.concatenate([[1.0], (left - keep) / left]))
    rounding = 4 * np.finfo(np.float64).eps * np.arange(len(share))  # four operations a factor
    return share * (1 - rounding)


def ablation_l0(lower: Any, upper: Any | None, keep: int, pixels: int) -> Floats:
    """The largest r with pA - D(r) > pB + D(r), D(r) = 1 - C(d - r, k) / C(d, k) (Levine and Feizi
    2020, theorem 1); pA - D(r) > 1/2 with pB = 1 - pA. pA, pB as `probabilities.bounds` takes them.

    r pixels, whatever their channels, may change arbitrarily: this radius is reached, not only
    approached. 0 also where pA <= pB.
    """
    a, b = bounds(lower, upper)
    seen = 1 - unseen(keep, pixels)
    found: Floats = np.maximum(np.searchsorted(2 * seen, (a - b).ravel()) - 1.0, 0.0).reshape(
        a.shape
    )
    return found


def check(keep: int, pixels: int) -> None:
    """Raises InputError unless 1 <= keep <= pixels."""
    whole(1, keep=keep, pixels=pixels)
    if keep > pixels:
        raise InputError(f"keep = {keep} of {pixels} pixels", "at most all", "keep fewer pixels")
