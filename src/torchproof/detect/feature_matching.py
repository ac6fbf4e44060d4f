"""The attack that makes an image look like one of another class to everything a detector reads."""

from __future__ import annotations

from torchproof.attack.catalogue import pgd
from torchproof.attack.combine import Attack, EveryTarget
from torchproof.attack.starts import Uniform
from torchproof.core.matching import Matching
from torchproof.core.rejection import Rejecting
from torchproof.core.threats import AnyThreat
from torchproof.detect.detector import Clean, Fitted
from torchproof.detect.references import lacking, references


def matching_attack(
    fitted: Fitted, threat: AnyThreat, rule: Rejecting, clean: Clean
) -> tuple[Attack, ...]:
    """100 steps of PGD towards `fitted.features` of the nearest clean image of the target class,
    for the three likeliest classes (feature matching, Tramer et al. 2020); for a model
    `Guarded(fitted, features=True)`. One attack, or none where a class has no clean image that the
    classifier gets right: see `without_matching`.
    """
    if lacking(fitted, clean):
        return ()
    match = Matching(references(fitted, clean), key="features", rule=rule)
    return (EveryTarget(pgd(threat, 100, start=Uniform(), objective=match), 3),)


def without_matching(fitted: Fitted, clean: Clean) -> str:
    """Why there is no `matching_attack`; empty where there is one."""
    classes = lacking(fitted, clean)
    if not classes:
        return ""
    named = ", ".join(map(str, classes))
    few = f"class {named} has" if len(classes) == 1 else f"classes {named} have"
    return f"without feature matching: {few} no clean image that the classifier gets right"
