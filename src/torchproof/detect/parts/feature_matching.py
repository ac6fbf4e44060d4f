"""The attack that makes an image look like one of another class to everything a detector reads, and
the clean images that it aims at.
"""

from __future__ import annotations

import torch
from torch import Tensor

from torchproof.attack.catalogue import pgd
from torchproof.attack.combine import Attack, EveryTarget
from torchproof.attack.starts import Uniform
from torchproof.attack.untouched import home, untouched
from torchproof.core.errors import InputError
from torchproof.core.matching import Matching
from torchproof.core.rejection import Rejecting
from torchproof.core.threats import AnyThreat
from torchproof.detect.detector import BATCH, Clean, Fitted


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


def lacking(fitted: Fitted, clean: Clean) -> tuple[int, ...]:
    """The classes of which the classifier gets no image right: `references` are refused."""
    right, classes = _right(fitted, clean)
    return tuple(k for k in range(classes) if not bool((right & (clean.y.cpu() == k)).any()))


@torch.no_grad()
def references(fitted: Fitted, clean: Clean, most: int = 50) -> tuple[Tensor, ...]:
    """For each class that the classifier knows the `fitted.features` (R, D) of the first `most`
    images that it gets right, for `core.matching.Matching`.

    Raises InputError for a class without one.
    """
    place = home(fitted)
    right, classes = _right(fitted, clean)
    with untouched(fitted):
        found = []
        for label in range(classes):
            rows = (right & (clean.y.cpu() == label)).nonzero()[:most, 0]
            if not len(rows):
                given = f"no image of class {label} that the classifier gets right"
                raise InputError(given, "at least one of each class", "pass more training images")
            chunks = torch.split(clean.x[rows.to(clean.x.device)], BATCH)
            found.append(torch.cat([fitted.features(chunk.to(place)) for chunk in chunks]))
    return tuple(found)


@torch.no_grad()
def _right(fitted: Fitted, clean: Clean) -> tuple[Tensor, int]:
    """Which images the classifier gets right (N,) bool, on the CPU, and how many classes it has."""
    place = home(fitted)
    with untouched(fitted):
        parts = torch.split(clean.x, BATCH)
        logits = torch.cat([fitted.model(part.to(place)) for part in parts])
    return logits.argmax(1).cpu() == clean.y.cpu(), logits.shape[1]
