"""One-sided confidence bounds of a binomial probability (Clopper and Pearson 1934)."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import betainccinv, betaincinv

from torchproof.core.errors import InputError
from torchproof.verify.smoothing.probabilities import Floats

_BELOW_ONE = np.nextafter(1.0, 0.0)


def lower_bound(hits: Any, n: Any, alpha: float) -> Floats:
    """The p that makes `hits` or more of n happen with probability alpha: the quantile alpha of
    Beta(hits, n - hits + 1); 0 without a hit, alpha^(1/n) where all are hits. Below 1 always.

    Raises InputError unless 0 <= hits <= n, n > 0 and 0 < alpha < 1.
    """
    k, n = _checked(hits, n, alpha)
    inner = betaincinv(np.maximum(k, 1), n - np.maximum(k, 1) + 1, alpha)
    exact = np.select([k == 0, k == n], [0.0, alpha ** (1 / n)], inner)
    found: Floats = np.minimum(exact, _BELOW_ONE)
    return found


def upper_bound(hits: Any, n: Any, alpha: float) -> Floats:
    """The p that makes `hits` or fewer of n happen with probability alpha: the quantile 1 - alpha
    of Beta(hits + 1, n - hits). Raises InputError as `lower_bound` does.
    """
    k, n = _checked(hits, n, alpha)
    inner = betainccinv(np.minimum(k, n - 1) + 1, n - np.minimum(k, n - 1), alpha)
    return np.where(k == n, 1.0, inner)


def class_bounds(
    hits: Any, second: Any, n: Any, alpha: float, runner_up: bool
) -> tuple[Floats, Floats]:
    """(pA, pB): bounds of the probability of a class that was counted `hits` times of n, and of
    every other class; both hold with probability 1 - alpha.

    pB is 1 - pA. With `runner_up` it is also bounded by `second`, the largest count of another
    class, each bound with alpha / 2: the largest count covers the most probable other class,
    whichever that is, because the bound grows with the count.
    """
    part = alpha / 2 if runner_up else alpha
    lower = lower_bound(hits, n, part)
    upper = 1 - lower
    if runner_up:
        upper = np.minimum(upper, upper_bound(second, n, part))
    return lower, upper


def check_alpha(alpha: float) -> None:
    """Raises InputError unless 0 < alpha < 1."""
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not 0 < alpha < 1:
        remedy = "0.001 is usual: the certificate is wrong for one image in a thousand at most"
        raise InputError(f"alpha = {alpha!r}", "a number between 0 and 1", remedy)


def _checked(hits: Any, n: Any, alpha: float) -> tuple[Floats, Floats]:
    check_alpha(alpha)
    k, total = np.asarray(hits, np.float64), np.asarray(n, np.float64)
    if not bool(((k >= 0) & (k <= total) & (total > 0)).all()):
        raise InputError(f"{hits} of {n}", "0 <= hits <= n with n > 0", "count the same samples")
    return k, total
