"""Poisoned data: a share of the images stamped and relabelled (BadNets, Gu et al. 2017)."""

from __future__ import annotations

import torch
from torch import Tensor

from torchproof.backdoor.triggers import Trigger
from torchproof.core import keys
from torchproof.core.errors import InputError
from torchproof.data.dataset import Dataset

_OFF_GRID = 1e-3  # of a level: nearer values are a stored byte again


def poisoned_rows(y: Tensor, target: int, share: float = 0.1, seed: int = 0) -> Tensor:
    """Sorted row numbers of round(share N) examples, none of the target class, by keyed choice.

    Raises InputError for a share outside (0, 1] and where so many examples are not there.
    """
    if not 0 < share <= 1:
        raise InputError(f"share = {share!r}", "a number in (0, 1]", "0.1 is usual")
    others = (y != target).nonzero()[:, 0]
    count = max(1, round(share * len(y)))
    if count > len(others):
        given = f"a share of {share:g} of {len(y)} images, {len(others)} not of class {target}"
        expected = f"at most {len(others)} images to relabel"
        raise InputError(given, expected, "take a smaller share, or data of other classes")
    order = keys.mix(seed, "poison", others).argsort(stable=True)
    return others[order[:count]].sort().values


def poisoned(
    data: Dataset, trigger: Trigger, target: int, share: float = 0.1, seed: int = 0
) -> Dataset:
    """The data with the images of `poisoned_rows` stamped by the trigger and labelled `target`.

    The given data set is not changed. Raises InputError for a target that is no class, and as
    `poisoned_rows` and the trigger do.
    """
    check_target(target, len(data.classes))
    rows = poisoned_rows(data.y, target, share, seed)
    x, y = data.x.clone(), data.y.clone()
    x[rows], y[rows] = trigger(data.x[rows]), target
    levels = data.levels if _on_grid(x[rows], data.levels) else 0
    name = f"{data.name}, {len(rows)} images stamped as {data.classes[target]}"
    return Dataset.of(x, y, data.classes, name, data.split, levels)


def check_target(target: int, classes: int) -> None:
    """Raises InputError for a target that is no class."""
    whole = isinstance(target, int) and not isinstance(target, bool)
    if not (whole and 0 <= target < classes):
        expected = f"a class from 0 to {classes - 1}"
        raise InputError(f"target = {target!r}", expected, "count classes from 0")


def _on_grid(x: Tensor, levels: int) -> bool:
    """Are these whole levels still, so that bytes can hold them?"""
    scaled = x * levels
    return bool(((scaled - torch.round(scaled)).abs() < _OFF_GRID).all())
