"""Intervals for proportions and means."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from torchproof.core.errors import InputError


def clopper_pearson(hits: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """The exact binomial interval of Clopper and Pearson (1934) for `hits` out of `n`.

    >>> tuple(round(v, 4) for v in clopper_pearson(0, 10))
    (0.0, 0.3085)
    """
    if not 0 <= hits <= n or n == 0:
        raise InputError(
            f"{hits} of {n}", "0 <= hits <= n with n > 0", "count at least one example"
        )
    from scipy.special import betaincinv  # a third of a second, which not every import should pay

    tail = (1 - level) / 2
    low = 0.0 if hits == 0 else float(betaincinv(hits, n - hits + 1, tail))
    high = 1.0 if hits == n else float(betaincinv(hits + 1, n - hits, 1 - tail))
    return low, high


def student(
    values: Sequence[float], least: float = -math.inf, most: float = math.inf
) -> tuple[float, float] | None:
    """The 95 % interval of Student's t for the mean of independent values; None for one value.

    Where no value can lie outside [least, most], neither can their mean: the interval is cut to
    that, which costs nothing of its coverage.
    """
    n = len(values)
    if n < 2:
        return None
    from scipy.special import stdtrit

    half = float(stdtrit(n - 1, 0.975)) * statistics.stdev(values) / math.sqrt(n)
    middle = statistics.fmean(values)
    return max(least, middle - half), min(most, middle + half)


def fallen(flags: Sequence[bool]) -> list[bool]:
    """Of the flags `collapsed` of a run's epochs, without those before anything was learnt."""
    learnt = next((row for row, flag in enumerate(flags) if not flag), 0)
    return [flag and row >= learnt for row, flag in enumerate(flags)]
