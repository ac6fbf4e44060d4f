"""Rejecting by reconstruction error early in training, and removal by the truth as the ceiling."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from torchproof.anomaly.learner import Learner
from torchproof.anomaly.scores import scores
from torchproof.anomaly.stages import Stage, a_share, all_ones, whole
from torchproof.core.errors import InputError


@dataclass(frozen=True)
class EarlyRejection:
    """Few epochs on everything; then the worst reconstructed `share` gets `weight`, for good.

    It rests on outliers being learnt later than normal images, which holds for a while only: after
    many epochs a network knows both. Ours; the paper rejects by latents (`ITSR`).
    """

    early: int = 15
    epochs: int = 135
    share: float = 0.06
    weight: float = 0.0

    def __post_init__(self) -> None:
        whole(early=self.early, epochs=self.epochs)
        a_share(share=self.share)
        _not_above_zero(self.weight)

    def stages(self) -> tuple[Stage, ...]:
        """The early epochs with all images, and the rest without the rejected."""
        return (
            Stage("early", self.early, all_ones),
            Stage("without the rejected", self.epochs, self._weigh),
        )

    def _weigh(self, learner: Learner, x: Tensor, before: Tensor) -> Tensor:
        rejected = worst_reconstructed(learner, x, self.share)
        return torch.ones_like(before).masked_fill(rejected, self.weight)


@dataclass(frozen=True)
class Oracle:
    """The outliers, whose rows are known, get `weight` from the start: what no method can do."""

    outliers: tuple[int, ...]
    epochs: int
    weight: float = 0.0

    def __post_init__(self) -> None:
        whole(epochs=self.epochs)
        _not_above_zero(self.weight)

    def stages(self) -> tuple[Stage, ...]:
        """One, with the known outliers weighed down."""
        return (Stage("training", self.epochs, self._weigh),)

    def _weigh(self, learner: Learner, x: Tensor, before: Tensor) -> Tensor:
        weights = torch.ones_like(before)
        weights[list(self.outliers)] = self.weight
        return weights


def worst_reconstructed(learner: Learner, x: Tensor, share: float) -> Tensor:
    """The rows (N,), bool, of the round(share N) highest reconstruction errors; at least one."""
    error = scores(learner.network, x).error
    chosen = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    chosen[error.topk(max(1, round(share * len(x)))).indices] = True
    return chosen


def _not_above_zero(weight: float) -> None:
    if not -1 <= weight <= 0:
        given = f"a weight of {weight:g} for rejected images"
        raise InputError(given, "a number from -1 to 0", "try 0, or -0.1")
