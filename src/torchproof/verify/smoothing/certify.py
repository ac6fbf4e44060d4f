"""CERTIFY and PREDICT (Cohen, Rosenfeld and Kolter 2019), from counts to statements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import betainc
from torch import Tensor

from torchproof.core.errors import InputError
from torchproof.verify.smoothing.confidence import check_alpha, class_bounds, lower_bound
from torchproof.verify.smoothing.noise import Noise
from torchproof.verify.smoothing.probabilities import Floats, whole
from torchproof.verify.smoothing.theories import NEYMAN_PEARSON

ABSTAIN = -1

Counts = Sequence[int] | Tensor | Floats


@dataclass(frozen=True)
class Certificate:
    """What holds with probability 1 - alpha over the samples: within `radius`, in the norm of the
    noise, the smoothed classifier answers `prediction`, unless that is ABSTAIN.

    lower, upper: bounds of the probability of `candidate`, which was selected, and of any other
    class.
    """

    prediction: int
    radius: float
    candidate: int
    lower: float
    upper: float


def certify(
    selection: Counts,
    estimation: Counts,
    noise: Noise,
    alpha: float = 0.001,
    *,
    runner_up: bool = False,
    by: str = NEYMAN_PEARSON,
) -> Certificate:
    """CERTIFY: the class that is most frequent in `selection` (K,), and how far it is certain, from
    `estimation` (K,), which must be counts of other samples.

    runner_up: see `confidence.class_bounds`; by: a name of THEORIES. Raises InputError for counts
    nobody can have made and an alpha outside (0, 1).
    """
    first, then = _counts(selection), _counts(estimation)
    if len(first) != len(then):
        given = f"counts of {len(first)} and {len(then)} classes"
        raise InputError(given, "the same classes twice", "count with the same model")
    candidate = int(first.argmax())
    second = np.delete(then, candidate).max()
    lower, upper = class_bounds(then[candidate], second, then.sum(), alpha, runner_up)
    radius = float(noise.radius(lower, upper, by))
    prediction = candidate if lower > upper else ABSTAIN
    return Certificate(prediction, radius, candidate, float(lower), float(upper))


def predict(counts: Counts, alpha: float = 0.001) -> int:
    """PREDICT: the most frequent class of `counts` (K,), or ABSTAIN where a two-sided binomial test
    cannot tell it from the second one at level alpha (Hung and Fithian 2019).
    """
    check_alpha(alpha)
    second, first = np.sort(_counts(counts))[-2:]
    p = min(2 * float(betainc(first, second + 1, 0.5)), 1.0)  # twice P(X >= first), first+second
    return int(_counts(counts).argmax()) if p <= alpha else ABSTAIN


def largest_radius(noise: Noise, n: int = 100_000, alpha: float = 0.001) -> float:
    """The radius where all n samples agree: pA = alpha^(1/n). No image gets a larger one."""
    whole(1, n=n)
    return float(noise.radius(lower_bound(n, n, alpha)))


def _counts(counts: Counts) -> Floats:
    """(K,) checked counts, float64, in which whole numbers below 2^53 are exact."""
    values = np.asarray(counts.cpu().numpy() if isinstance(counts, Tensor) else counts)
    good = values.ndim == 1 and len(values) >= 2 and bool((values >= 0).all())
    if not good or not bool((values == np.floor(values)).all()) or values.sum() < 1:
        given = f"counts {values.tolist() if values.size < 20 else values.shape}"
        raise InputError(given, "whole numbers >= 0, two or more", "count at least one sample")
    return values.astype(np.float64)
