"""What a method of training on contaminated images is: stages of epochs, each with weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from torchproof.anomaly.learner import Learner
from torchproof.core.errors import InputError

Weigh = Callable[[Learner, Tensor, Tensor], Tensor]
"""From the learner, the images (N, C, H, W) and the weights of the stage before (N,) to the
weights of this stage: 1 for images to learn, 0 for rejected ones, below 0 to make them worse.
"""


@dataclass(frozen=True)
class Stage:
    """A part of the training: before it the images are weighed, then it lasts `epochs`."""

    name: str
    epochs: int
    weigh: Weigh


class Method(Protocol):
    """A frozen dataclass of plain values, whose repr tells it from others."""

    def stages(self) -> tuple[Stage, ...]: ...


@dataclass(frozen=True)
class Plain:
    """All images count the same: what contamination breaks."""

    epochs: int

    def __post_init__(self) -> None:
        whole(epochs=self.epochs)

    def stages(self) -> tuple[Stage, ...]:
        """One, with the weight 1 for all."""
        return (Stage("training", self.epochs, all_ones),)


def all_ones(learner: Learner, x: Tensor, before: Tensor) -> Tensor:
    """(N,) weights 1: nothing is rejected."""
    return torch.ones_like(before)


def whole(**numbers: int) -> None:
    """Raises InputError for a number below 1."""
    for name, number in numbers.items():
        if number < 1:
            raise InputError(f"{name} = {number}", "a whole number >= 1", "raise it")


def a_share(**shares: float) -> None:
    """Raises InputError for a share outside (0, 1)."""
    for name, share in shares.items():
        if not 0 < share < 1:
            raise InputError(f"{name} = {share:g}", "a share in (0, 1)", "try 0.02")
