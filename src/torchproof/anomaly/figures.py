"""How well scores tell anomalies from normal images, where the truth is known."""

from __future__ import annotations

from dataclasses import dataclass

from sklearn.metrics import roc_auc_score
from torch import Tensor

from torchproof.anomaly.scores import Rule, Scores
from torchproof.core.errors import InputError


@dataclass(frozen=True)
class Told:
    """Anomalies are positive. balanced: mean of the share of anomalies found and the share of
    normal images left alone; auroc: of a score, without a threshold.
    """

    found: float
    left_alone: float
    balanced: float
    auroc: float
    auroc_error: float
    auroc_likelihood: float


def auroc(suspicion: Tensor, anomalous: Tensor) -> float:
    """The area under the ROC curve; higher suspicion = more anomalous. Raises InputError where one
    of the kinds is missing.
    """
    both_kinds(anomalous)
    return float(roc_auc_score(anomalous.cpu().numpy(), suspicion.double().cpu().numpy()))


def told_apart(scores: Scores, anomalous: Tensor, rule: Rule) -> Told:
    """Of `rule` on images with the truth `anomalous` (N,), bool; raises InputError where one of the
    kinds is missing.
    """
    both_kinds(anomalous)
    flags = rule.flags(scores)
    found = float(flags[anomalous].float().mean())
    alone = 1 - float(flags[~anomalous].float().mean())
    return Told(
        found=found,
        left_alone=alone,
        balanced=(found + alone) / 2,
        auroc=auroc(rule.suspicion(scores), anomalous),
        auroc_error=auroc(scores.error, anomalous),
        auroc_likelihood=auroc(-scores.likelihood, anomalous),
    )


def both_kinds(anomalous: Tensor) -> None:
    if bool(anomalous.all()) or not bool(anomalous.any()):
        given = f"{int(anomalous.sum())} anomalies among {len(anomalous)} images"
        raise InputError(given, "anomalies and normal images", "give some of both kinds")
