"""Several detectors at once: a hinge for each one that still objects (Tramer et al. 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchproof.core.errors import InputError, ModelError
from torchproof.core.objectives import Goal, Margin, Objective
from torchproof.core.unaware import logits_of


@dataclass(frozen=True)
class Hinges(Objective):
    """-(max(0, slack - a) + sum_d weights[d] max(0, s_d - thresholds[d])), a being `inner`'s score
    of the logits and s_d (B, D) what the model returns under `key`, higher = more suspicious.

    A detector that is content has no say, so those that object are not outvoted. Won: inner is won
    and no s_d is above its threshold; score: the smallest of a and weights[d] (thresholds[d] -
    s_d). Raises InputError for other than one weight per threshold, ModelError for a model that
    does not return (B, D) scores, or (B,) of a single detector.
    """

    thresholds: tuple[float, ...]
    inner: Objective = Margin()
    key: str = "reject"
    weights: tuple[float, ...] = ()
    slack: float = 0.0

    def __post_init__(self) -> None:
        n = len(self.thresholds)
        weights = self.weights or (1.0,) * n
        if not n or len(weights) != n or min(weights) <= 0:
            given = f"{n} thresholds with the weights {self.weights}"
            raise InputError(given, "one weight > 0 for each", "leave the weights out for 1")
        object.__setattr__(self, "weights", tuple(weights))
        for trait in ("targeted", "soft"):
            object.__setattr__(self, trait, getattr(self.inner, trait))

    def loss(self, out: Any, goal: Goal) -> Tensor:
        wrong, room = self._parts(out, goal)
        return -(self.slack - wrong).relu() - (-room).relu().sum(1)

    def won(self, out: Any, goal: Goal) -> Tensor:
        return self.inner.won(logits_of(out), goal) & (self._parts(out, goal)[1] >= 0).all(1)

    def score(self, out: Any, goal: Goal) -> Tensor:
        wrong, room = self._parts(out, goal)
        return torch.minimum(wrong, room.amin(1))

    def _parts(self, out: Any, goal: Goal) -> tuple[Tensor, Tensor]:
        """How far inner is won (B,), and the room below each threshold (B, D), in logits."""
        wrong = self.inner.score(logits_of(out), goal)
        scores = out.get(self.key) if isinstance(out, dict) else None
        scores = scores[:, None] if scores is not None and scores.ndim == 1 else scores
        if scores is None or scores.shape != (len(wrong), len(self.thresholds)):
            given = f"a model that returns {None if scores is None else tuple(scores.shape)}"
            expected = f"{self.key!r} of shape (B, {len(self.thresholds)})"
            raise ModelError(given, expected, "return one score per detector")
        room = wrong.new_tensor(self.thresholds) - scores.to(wrong)
        return wrong, room * wrong.new_tensor(self.weights)
