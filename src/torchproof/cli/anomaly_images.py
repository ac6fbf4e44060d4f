"""The images that `anomaly fit` and `anomaly score` take from a data set."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from torchproof.anomaly.contamination import shrunk
from torchproof.core.errors import InputError, unknown
from torchproof.core.keys import permutation
from torchproof.data.dataset import Dataset


@dataclass(frozen=True, eq=False)
class Picked:
    """Images (N, C, H, W), and which rows (N,) of their part of the data set they are."""

    x: Tensor
    rows: Tensor

    def take(self, which: Tensor) -> Picked:
        return Picked(self.x[which], self.rows[which])


def pick(
    found: Dataset, classes: str = "", n: int | None = None, size: int | None = None
) -> Picked:
    """The first n images of these classes (all, where none is named), shrunk to `size` pixels.

    Raises UnknownName for a class, InputError for more images or pixels than there are.
    """
    rows = mask(found, classes).nonzero()[:, 0] if classes else torch.arange(len(found))
    some = found.subset(rows)
    some = some if n is None else some.take(n)
    return Picked(some.x if size is None else shrunk(some.x, size), rows[: len(some)])


def mask(found: Dataset, classes: str) -> Tensor:
    """Which images are of these classes, by name or number: (N,), bool; raises UnknownName."""
    labels = []
    for word in classes.split(","):
        name = word.strip()
        if name in found.classes:
            labels.append(found.classes.index(name))
        elif name.isdigit() and int(name) < len(found.classes):
            labels.append(int(name))
        else:
            raise unknown("class", name, found.classes)
    return torch.isin(found.y, torch.tensor(labels))


def cut(picked: Picked, share: float, seed: int) -> tuple[Picked, Picked | None]:
    """Images for training, and those held out, chosen by the seed; raises InputError for a share
    outside [0, 0.5] and too few images.
    """
    if not 0 <= share <= 0.5:
        raise InputError(f"--hold-out {share:g}", "a share from 0 to 0.5", "try 0.2")
    count = len(picked.x)
    held = round(share * count)
    if not held:
        return picked, None
    if held < 2 or count - held < 2:
        given = f"{count} images, {held} of them held out"
        raise InputError(given, "2 or more in each part", "give more images, or --hold-out 0")
    order = permutation(count, seed, "held out")
    return picked.take(order[held:]), picked.take(order[:held])
