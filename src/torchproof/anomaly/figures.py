"""How well scores tell anomalies from normal images, where the truth is known."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from torch import Tensor

from torchproof.anomaly.scores import Rule, Scores
from torchproof.core.errors import InputError
from torchproof.core.ranking import auroc, auroc_interval


@dataclass(frozen=True)
class Told:
    """Anomalies are positive. balanced: mean of the share of anomalies found and the share of
    normal images left alone; auroc: of the suspicion, without a threshold, with its interval.
    """

    found: float
    left_alone: float
    balanced: float
    auroc: float
    ci95: tuple[float, float]


@dataclass(frozen=True)
class ToldApart(Told):
    """The AUROC of both scores of an autoencoder beside that of its rule."""

    auroc_error: float
    auroc_likelihood: float


def told(suspicion: Tensor, anomalous: Tensor) -> Told:
    """Of suspicions (N,), above 0 for what is called an anomaly, with the truth `anomalous` (N,),
    bool; raises InputError where one of the kinds is missing.
    """
    if bool(anomalous.all()) or not bool(anomalous.any()):
        given = f"{int(anomalous.sum())} anomalies among {len(anomalous)} images"
        raise InputError(given, "anomalies and normal images", "give some of both kinds")
    low, high = suspicion[~anomalous], suspicion[anomalous]
    found, alone = float((high > 0).double().mean()), float((low <= 0).double().mean())
    area = auroc(low, high)
    within = auroc_interval(area, len(low), len(high))
    return Told(found, alone, (found + alone) / 2, area, within)


def told_apart(scores: Scores, anomalous: Tensor, rule: Rule) -> ToldApart:
    """By `rule`, of images with the truth `anomalous` (N,), bool; raises InputError as `told`."""
    by_rule = told(rule.suspicion(scores), anomalous)
    areas = [auroc(s[~anomalous], s[anomalous]) for s in (scores.error, -scores.likelihood)]
    return ToldApart(**asdict(by_rule), auroc_error=areas[0], auroc_likelihood=areas[1])
