"""The row that must not be missing: an adversary who knows the detector, and attacks it together
with the classifier.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from torchproof.attack.combine import Attack
from torchproof.attack.run import Run
from torchproof.core.keys import seed_of
from torchproof.core.objectives import Margin
from torchproof.core.rejection import Rejecting
from torchproof.core.threats import AnyThreat
from torchproof.detect.calibrate import Threshold, calibrated_rule
from torchproof.detect.detector import BATCH, Clean, Fitted, Guarded
from torchproof.detect.parts.feature_matching import without_matching
from torchproof.detect.parts.logits import logits_of
from torchproof.detect.parts.logits import wrong as misclassified

DROP = 0.2
"""An adaptive attack that lowers the AUROC by less has failed, and says so."""


@dataclass(frozen=True)
class Evasion:
    """Of each of N images the best that any of the attacks found: wrong (N,) bool, misclassified;
    evaded (N,) bool, misclassified and accepted; score (N,) float64, the detector's: of
    misclassified images the lowest, else as found last. attacks: how many there were; lacks: the
    one that could not be made, and why.
    """

    wrong: Tensor
    evaded: Tensor
    score: Tensor
    attacks: int
    lacks: str = ""


def rule_of(fitted: Fitted, threshold: Threshold, x: Tensor, batch_size: int = BATCH) -> Rejecting:
    """Misclassified and accepted, with the weights that clean images x (N, C, H, W) suggest."""
    logits = logits_of(fitted.model, x, batch_size)
    weights = calibrated_rule(threshold, logits, fitted.score(x, batch_size))
    return Rejecting(Margin(), threshold.value, **weights)


def evade(
    fitted: Fitted, x: Tensor, y: Tensor, threat: AnyThreat, rule: Rejecting, clean: Clean,
    seed: int = 0, batch_size: int = BATCH,
) -> Evasion:  # fmt: skip
    """Runs all attacks of the detector, each to its end: an image that is accepted is made less
    suspicious still, since the AUROC asks how suspicious it is, not only whether it is accepted.

    An image for which one attack has succeeded is left to it; the next ones get the others.
    """
    attacks = fitted.attacks(threat, rule, clean)
    total = Evasion(
        torch.zeros(len(x), dtype=torch.bool), torch.zeros(len(x), dtype=torch.bool),
        torch.full((len(x),), torch.inf, dtype=torch.float64), len(attacks),
        "" if _reads_features(attacks) else without_matching(fitted, clean),
    )  # fmt: skip
    for number, attack in enumerate(attacks):
        rows = (~total.evaded).nonzero()[:, 0]
        if len(rows):
            run = Run(seed_of(seed, "evade", number), ids=rows, slots=batch_size)
            _attacked(fitted, attack, x[rows], y[rows], rule, run, total, rows)
    return total


def _attacked(
    fitted: Fitted, attack: Attack, x: Tensor, y: Tensor, rule: Rejecting, run: Run,
    total: Evasion, rows: Tensor,
) -> None:  # fmt: skip
    """One attack, written into `total` where it is better."""
    guarded = Guarded(fitted, features=_reads_features([attack]))
    delta: Any = attack(guarded, x, y, run=replace(run, patience=math.inf)).value
    made = (x + delta.to(x)).clamp(0, 1).cpu()
    wrong = misclassified(fitted.model, made, y, run.slots)
    score = fitted.score(made, run.slots)
    before = total.wrong[rows]
    better = torch.where(wrong == before, score < total.score[rows], wrong)
    at = rows[better]
    total.score[at], total.wrong[at] = score[better], wrong[better]
    total.evaded[rows] = total.wrong[rows] & (total.score[rows] <= rule.threshold)


def _reads_features(attacks: Sequence[Any]) -> bool:
    """Features cost a pass of their own; logits are there anyway."""
    return any(getattr(getattr(one, "objective", None), "key", "") == "features" for one in attacks)
