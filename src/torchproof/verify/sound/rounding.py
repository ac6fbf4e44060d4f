"""How far a float64 computation can be from real arithmetic.

The standard model (Higham 2002, chapters 2 and 3): every sum, product, quotient and square root is
rounded with a relative error of at most U, so a sum of n products, in whatever order, has an error
of at most gamma(n) times the sum of their absolute values.
"""

from __future__ import annotations

import torch
from torch import Tensor

from torchproof.verify.interval import Interval

U = 2.0**-53
TINY = 1e-280
"""Added to every charge: more than all the results below 2^-1022 could have lost together."""


def gamma(n: int) -> float:
    """n U / (1 - n U)."""
    return n * U / (1 - n * U)


def charge(n: int) -> float:
    """Twice gamma(n): the other half pays for computing the error bound itself in float64, which
    is a sum of nonnegative terms and so too small by a factor of at most 1 - gamma(its length).
    """
    return 2 * gamma(n)


def wider(z: Interval, by: Tensor) -> Interval:
    """The interval with `by` >= 0 more on either side; the subtraction is the caller's to pay."""
    return Interval(z.lower - by, z.upper + by)


def outward(z: Interval, n: int = 4) -> Interval:
    """The interval of ends that had n roundings."""
    return wider(z, charge(n) * size(z) + TINY)


def size(z: Interval) -> Tensor:
    """The largest absolute value."""
    return torch.maximum(z.lower.abs(), z.upper.abs())
