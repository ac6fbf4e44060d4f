"""The attack that makes an image look like one of another class to everything a detector reads."""

from __future__ import annotations

from torchproof.attack.catalogue import pgd
from torchproof.attack.combine import Attack, EveryTarget
from torchproof.attack.starts import Uniform
from torchproof.core.matching import Matching
from torchproof.core.rejection import Rejecting
from torchproof.core.threats import AnyThreat
from torchproof.detect.detector import Clean, Fitted
from torchproof.detect.references import references


def matching_attack(fitted: Fitted, threat: AnyThreat, rule: Rejecting, clean: Clean) -> Attack:
    """100 steps of PGD towards `fitted.features` of the nearest clean image of the target class,
    for the three likeliest classes (feature matching, Tramer et al. 2020); for a model
    `Guarded(fitted, features=True)`. Raises InputError as `references` does.
    """
    match = Matching(references(fitted, clean), key="features", rule=rule)
    return EveryTarget(pgd(threat, 100, start=Uniform(), objective=match), 3)
