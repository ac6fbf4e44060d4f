"""How well a score tells two groups apart: ROC curve, its area, precision and recall.

Scores are higher for the positive group: the suspicious, the anomalous, the trojaned.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from torchproof.core.errors import InputError
from torchproof.core.metrics import clopper_pearson

Scores = Sequence[float] | Tensor


@dataclass(frozen=True)
class Roc:
    """Point i calls suspicious what scores at least thresholds[i]: `false_alarms` of the negatives
    (FPR) and `found` of the positives (TPR). area: AUROC; ci95: see `auroc_interval`.
    """

    thresholds: tuple[float, ...]
    false_alarms: tuple[float, ...]
    found: tuple[float, ...]
    area: float
    ci95: tuple[float, float]

    @classmethod
    def of(cls, negative: Scores, positive: Scores) -> Roc:
        """Raises InputError for an empty group or a score that is NaN."""
        low, high = _pair(negative, positive)
        area = auroc(low, high)
        cuts = torch.unique(torch.cat([low, high])).flip(0)
        shares = [_at_least(group, cuts).tolist() for group in (low, high)]
        return cls(
            (math.inf, *cuts.tolist()),
            (0.0, *shares[0]),
            (0.0, *shares[1]),
            area,
            auroc_interval(area, len(low), len(high)),
        )


def auroc(negative: Scores, positive: Scores) -> float:
    """The share of pairs in which the positive one scores higher; a tie is half a pair.

    Raises InputError for an empty group or a score that is NaN.

    >>> auroc([0.1, 0.4], [0.4, 0.8])
    0.875
    """
    low, high = _pair(negative, positive)
    ordered = low.sort().values
    below = torch.searchsorted(ordered, high, right=False) / 2
    wins = below + torch.searchsorted(ordered, high, right=True) / 2
    return float(wins.double().mean()) / len(low)


def auroc_interval(area: float, m: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """All areas A that lie within z standard errors of the measured one, where the error is that
    of Hanley and McNeil (1982) at A, for groups of m and n (Newcombe 2006, method 5).

    Unlike the errors at the measured area it has a width where all pairs are in order.
    """
    from scipy.optimize import brentq  # late: both together take as long as a fifth of torch
    from scipy.special import ndtri

    z = float(ndtri(0.5 + level / 2))

    def beyond(at: float) -> float:
        middle = (m + n) / 2 - 1
        spread = 1 + middle * (1 - at) / (2 - at) + middle * at / (1 + at)
        return (area - at) ** 2 - z**2 * at * (1 - at) * spread / (m * n)

    # at 0 and 1 the error is 0: an area that is one of them is left by a hair
    low = 0.0 if area <= 0 else float(brentq(beyond, 0.0, min(area, 1 - 1e-9)))
    high = 1.0 if area >= 1 else float(brentq(beyond, max(area, 1e-9), 1.0))
    return low, high


def average_precision(negative: Scores, positive: Scores) -> float:
    """AUPR as the mean precision over the recalls, without interpolation between the points.

    It depends on how many there are of each group: compare it only where the shares are the same.
    Raises InputError as `auroc` does.
    """
    low, high = _pair(negative, positive)
    cuts = torch.unique(torch.cat([low, high])).flip(0)
    alarms, found = (_at_least(group, cuts) * len(group) for group in (low, high))
    gained = torch.diff(found, prepend=found.new_zeros(1)) / len(high)
    return float((gained * found / (found + alarms)).sum())


@dataclass(frozen=True)
class Caught:
    """fpr: the rate of false alarms that was allowed; threshold: the lowest with at most so many
    (a score above it is an alarm); share: of the positives above it, ci95: Clopper and Pearson's.
    """

    fpr: float
    threshold: float
    share: float
    ci95: tuple[float, float]


def caught_at(negative: Scores, positive: Scores, fpr: float) -> Caught:
    """TPR at a false-positive rate of these negatives: a figure of the ranking. A threshold chosen
    in advance is `detect.calibrate`'s. Raises InputError for a rate outside [0, 1).
    """
    if not 0 <= fpr < 1:
        raise InputError(f"fpr = {fpr!r}", "0 <= fpr < 1", "write 0.05 for one in twenty")
    low, high = _pair(negative, positive)
    allowed = math.floor(fpr * len(low) + 1e-9)
    threshold = float(low.sort(descending=True).values[allowed])
    hits = int((high > threshold).sum())
    return Caught(fpr, threshold, hits / len(high), clopper_pearson(hits, len(high)))


def _pair(negative: Scores, positive: Scores) -> tuple[Tensor, Tensor]:
    low, high = (
        torch.as_tensor(s, dtype=torch.float64).flatten().contiguous() for s in (negative, positive)
    )
    if not len(low) or not len(high) or bool(low.isnan().any()) or bool(high.isnan().any()):
        given = f"{len(low)} negative and {len(high)} positive scores"
        nan = int(low.isnan().sum() + high.isnan().sum())
        given += f", {nan} of them NaN" if nan else ""
        raise InputError(given, "at least one of each group, none NaN", "judge more of both")
    return low, high.to(low.device)


def _at_least(group: Tensor, cuts: Tensor) -> Tensor:
    """The share of the group that scores at least each of the cuts."""
    below = torch.searchsorted(group.sort().values, cuts, right=False)
    return 1 - below.double() / len(group)
