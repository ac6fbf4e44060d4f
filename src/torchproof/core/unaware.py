"""Attacking half of a defence: the loss reads the logits alone, the verdict knows the detector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from torchproof.core.objectives import CrossEntropy, Goal, Objective
from torchproof.core.rejection import Rejecting


def logits_of(out: Any) -> Tensor:
    """The logits (B, K) of an answer that may be a table."""
    found: Tensor = out["logits"] if isinstance(out, Mapping) else out
    return found


@dataclass(frozen=True)
class Unaware(Objective):
    """`inner` on the logits, whatever else the model returns: how detectors are evaluated by those
    who do not try to get past them. Won and score as `rule` says, where there is one, else as
    `inner` says.
    """

    inner: Objective = CrossEntropy()
    rule: Rejecting | None = None

    def __post_init__(self) -> None:
        for trait in ("targeted", "soft"):
            object.__setattr__(self, trait, getattr(self.inner, trait))

    def loss(self, out: Any, goal: Goal) -> Tensor:
        return self.inner.loss(logits_of(out), goal)

    def won(self, out: Any, goal: Goal) -> Tensor:
        if self.rule is None:
            return self.inner.won(logits_of(out), goal)
        return self.rule.won(out, goal)

    def score(self, out: Any, goal: Goal) -> Tensor:
        if self.rule is None:
            return self.inner.score(logits_of(out), goal)
        return self.rule.score(out, goal)
