"""How well scores tell two groups apart: the ROC curve, its area, and an interval of the area."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.optimize import brentq
from scipy.special import ndtri

from torchproof.core.errors import InputError


@dataclass(frozen=True)
class Roc:
    """Of scores that are higher for the second group. Point i calls suspicious what scores at
    least thresholds[i]: false_alarms among the first group, found among the second. area: AUROC;
    ci95: its interval, see `auroc_interval`.
    """

    thresholds: tuple[float, ...]
    false_alarms: tuple[float, ...]
    found: tuple[float, ...]
    area: float
    ci95: tuple[float, float]

    @classmethod
    def of(cls, clean: Sequence[float], trojaned: Sequence[float]) -> Roc:
        """Raises InputError for an empty group or a score that is NaN."""
        area = auroc(clean, trojaned)
        cuts = (math.inf, *sorted({*clean, *trojaned}, reverse=True))
        return cls(
            cuts,
            tuple(sum(s >= cut for s in clean) / len(clean) for cut in cuts),
            tuple(sum(s >= cut for s in trojaned) / len(trojaned) for cut in cuts),
            area,
            auroc_interval(area, len(clean), len(trojaned)),
        )


def auroc(clean: Sequence[float], trojaned: Sequence[float]) -> float:
    """The share of pairs in which the trojaned one scores higher; a tie is half a pair."""
    if not clean or not trojaned or any(math.isnan(s) for s in (*clean, *trojaned)):
        given = f"{len(clean)} and {len(trojaned)} scores"
        raise InputError(given, "at least one of each group, none NaN", "judge more networks")
    wins = sum((t > c) + (t == c) / 2 for c in clean for t in trojaned)
    return wins / (len(clean) * len(trojaned))


def auroc_interval(area: float, m: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """All areas A that lie within z standard errors of the measured one, where the error is that
    of Hanley and McNeil (1982) at A, for groups of m and n (Newcombe 2006, method 5).

    Unlike the errors at the measured area it has a width where all pairs are in order.
    """
    z = float(ndtri(0.5 + level / 2))

    def beyond(at: float) -> float:
        middle = (m + n) / 2 - 1
        spread = 1 + middle * (1 - at) / (2 - at) + middle * at / (1 + at)
        return (area - at) ** 2 - z**2 * at * (1 - at) * spread / (m * n)

    # at 0 and 1 the error is 0: an area that is one of them is left by a hair
    low = 0.0 if area <= 0 else float(brentq(beyond, 0.0, min(area, 1 - 1e-9)))
    high = 1.0 if area >= 1 else float(brentq(beyond, max(area, 1e-9), 1.0))
    return low, high


def threshold(clean: Sequence[float], trojaned: Sequence[float]) -> float:
    """Where found minus false alarms (Youden 1950) is largest, half-way to the score below; of
    equals the highest.
    """
    curve = Roc.of(clean, trojaned)
    gain = [f - a for f, a in zip(curve.found, curve.false_alarms, strict=True)]
    best = max(range(1, len(gain)), key=lambda i: (gain[i], -i))
    below = curve.thresholds[best + 1] if best + 1 < len(gain) else curve.thresholds[best]
    return (curve.thresholds[best] + below) / 2
