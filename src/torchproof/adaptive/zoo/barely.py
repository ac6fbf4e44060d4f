"""What an attack that looks for the nearest adversarial example ascends."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from torchproof.core.objectives import Classification, Goal, hard, margin


@dataclass(frozen=True)
class Barely(Classification):
    """min(margin, confidence): the loss of Carlini and Wagner 2017, which asks for no more than
    that the class is wrong; of all such points a search keeps the first.
    """

    confidence: float = 0.0

    def loss(self, out: Tensor, goal: Goal) -> Tensor:
        return margin(out, hard(goal.y)).clamp(max=self.confidence)

    def score(self, out: Tensor, goal: Goal) -> Tensor:
        return self.loss(out, goal)
