"""How good a concept classifier is on held-out images: recall with what it costs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from torchproof.concept.cav import Cav
from torchproof.core.errors import InputError
from torchproof.core.ranking import auroc

SUSPECT = 0.5  # of the false-positive rate


@dataclass(frozen=True)
class Quality:
    """Of one classifier. recall: share of held-out concept images that it marks (the effectiveness
    of Soni et al. 2020); false_positives: share of held-out random images that it marks; auroc:
    probability that a concept image has the larger score, whatever the threshold.
    """

    recall: float
    false_positives: float
    auroc: float


@dataclass(frozen=True)
class Spread:
    """Of several draws: means, and sample standard deviations over draws (of the recall: the
    robustness of Soni et al. 2020, less being better; NaN for a single draw).
    """

    draws: int
    recall: float
    recall_std: float
    false_positives: float
    false_positives_std: float
    auroc: float
    auroc_std: float


def quality(cav: Cav, concept: Tensor, random: Tensor) -> Quality:
    """On activations (N, D) and (M, D) that the classifier was not trained with."""
    if not (len(concept) and len(random)):
        given = f"{len(concept)} concept and {len(random)} random images held out"
        raise InputError(given, "at least one of each", "hold out a larger share")
    up, down = cav.score(concept), cav.score(random)
    recall, spent = (float((side > 0).double().mean()) for side in (up, down))
    return Quality(recall, spent, auroc(down, up))


def margin_of(cav: Cav, concept: Tensor) -> float:
    """The least distance of concept activations (N, D) from the boundary, in their units; negative
    where one is on the wrong side.
    """
    return float(cav.score(concept).min())


def spread(each: Sequence[Quality]) -> Spread:
    """Means and standard deviations; raises InputError for none."""
    if not each:
        raise InputError("no classifiers", "at least one", "ask for a draw")
    columns = [[getattr(q, name) for q in each] for name in ("recall", "false_positives", "auroc")]
    found = [part for values in columns for part in (statistics.fmean(values), _std(values))]
    return Spread(len(each), *found)


def cautions(name: str, found: Spread) -> tuple[str, ...]:
    """What is said of a recall where the classifier marks most images, whatever they are."""
    if found.false_positives <= SUSPECT:
        return ()
    return (
        f"{name} marks {found.false_positives:.0%} of the random images: its recall says nothing",
    )


def _std(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else math.nan
