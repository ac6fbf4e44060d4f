"""Clean images that an adversary drives its own towards: their features, class by class."""

from __future__ import annotations

import torch
from torch import Tensor

from torchproof.attack.untouched import home, untouched
from torchproof.core.errors import InputError
from torchproof.detect.detector import BATCH, Clean, Fitted


@torch.no_grad()
def references(fitted: Fitted, clean: Clean, most: int = 50) -> tuple[Tensor, ...]:
    """For each class that the classifier knows the `fitted.features` (R, D) of the first `most`
    images that it gets right, for `core.matching.Matching`.

    Raises InputError for a class without one.
    """
    place = home(fitted)
    with untouched(fitted):
        parts = torch.split(clean.x, BATCH)
        logits = torch.cat([fitted.model(part.to(place)) for part in parts])
        right = logits.argmax(1).cpu() == clean.y.cpu()
        found = []
        for label in range(logits.shape[1]):
            rows = (right & (clean.y.cpu() == label)).nonzero()[:most, 0]
            if not len(rows):
                given = f"no image of class {label} that the classifier gets right"
                raise InputError(given, "at least one of each class", "pass more training images")
            chunks = torch.split(clean.x[rows.to(clean.x.device)], BATCH)
            found.append(torch.cat([fitted.features(chunk.to(place)) for chunk in chunks]))
    return tuple(found)
