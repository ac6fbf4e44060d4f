"""A threshold with a distribution-free guarantee on false alarms, from clean images kept apart."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from torchproof.core.errors import InputError
from torchproof.core.metrics import clopper_pearson


@dataclass(frozen=True)
class Threshold:
    """value: what scores above it is flagged. fpr: the rate of false alarms that was asked for, a
    bound on the chance that a further clean image is flagged (split conformal, Vovk et al. 2005),
    whatever the distribution, as long as it is the one that the n images came from. ci95: where the
    rate of this very threshold lies with 95 % probability over the draw of the n images, where no
    two scores are equal: a Beta distribution (Vovk 2012). With ties it can only be lower.
    """

    value: float
    fpr: float
    n: int
    ci95: tuple[float, float]

    def flags(self, scores: Tensor) -> Tensor:
        """(N,) bool: which scores are above it."""
        return scores > self.value

    def rate(self, scores: Tensor) -> tuple[float, tuple[float, float]]:
        """The share of these scores above it, and Clopper and Pearson's interval of the rate."""
        hits = int(self.flags(scores).sum())
        return hits / len(scores), clopper_pearson(hits, len(scores))


def calibrate(scores: Tensor, fpr: float = 0.05) -> Threshold:
    """The threshold from scores (n,) of clean images that the detector was not fitted on: the
    ceil((n + 1)(1 - fpr))-th smallest.

    Raises InputError for a rate outside (0, 1), for scores that are NaN, and for fewer images than
    1 / fpr - 1, of which no threshold can promise it.
    """
    if not 0 < fpr < 1:
        raise InputError(f"fpr = {fpr!r}", "a rate between 0 and 1", "write 0.05 for 1 in 20")
    n = len(scores)
    if bool(scores.isnan().any()):
        raise InputError(f"{int(scores.isnan().sum())} scores that are NaN", "numbers", "drop them")
    rank = math.ceil((n + 1) * (1 - fpr) - 1e-9)
    if rank > n:
        least = math.ceil(1 / fpr - 1 - 1e-9)
        given = f"{n} clean images for a false-alarm rate of {fpr:g}"
        raise InputError(given, f"at least {least}", "calibrate on more images or at a higher rate")
    from scipy.special import betaincinv  # late: a third of a second

    value = float(scores.double().sort().values[rank - 1])
    above = n + 1 - rank  # the rate has the distribution Beta(above, rank)
    low, high = (float(betaincinv(above, rank, tail)) for tail in (0.025, 0.975))
    return Threshold(value, fpr, n, (low, high))


def calibrated_rule(threshold: Threshold, logits: Tensor, scores: Tensor) -> dict[str, float]:
    """weight and temperature of `core.rejection.Rejecting` for this threshold, from the answers to
    clean images: the room below the threshold (from the median score, or the middle half of the
    scores where that is wider) is worth the median margin between the two largest logits, the
    temperature a fifth of that margin.
    """
    top = logits.double().topk(2, dim=1).values
    margin = max(float((top[:, 0] - top[:, 1]).median()), 1e-6)
    quarters = torch.tensor([0.25, 0.75, 0.5], dtype=torch.float64)
    low, high, middle = torch.quantile(scores.double(), quarters).tolist()
    width = max(high - low, threshold.value - middle)
    weight = margin / width if width > 0 else 1.0
    return {"weight": weight, "temperature": margin / 5}
