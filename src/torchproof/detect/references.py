"""Clean images that an adversary drives its own towards: their features, class by class."""

from __future__ import annotations

import torch
from torch import Tensor

from torchproof.attack.untouched import home, untouched
from torchproof.core.errors import InputError
from torchproof.detect.detector import BATCH, Clean, Fitted


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
