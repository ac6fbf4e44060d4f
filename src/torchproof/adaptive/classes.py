"""A model that may reject as one with a class more, so that the red flags can be raised about
attacks that do not try to be accepted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from torchproof.core.objectives import Goal, Objective
from torchproof.core.rejection import Rejecting
from torchproof.core.sites import Model


class AsClasses(nn.Module):
    """Logits (B, K + 1), the last of which is the largest exactly where `rule` rejects."""

    def __init__(self, model: Model, rule: Rejecting) -> None:
        super().__init__()
        self.model, self.rule = model, rule
        self.training = False

    def forward(self, x: Tensor) -> Tensor:
        return self.rule.as_classes(self.model(x))


@dataclass(frozen=True)
class Tabled(Objective):
    """An objective of tables asked about K + 1 logits: `logits` are all but the last, `reject` is
    worked out from that one. Other entries of a table are lost.
    """

    inner: Objective
    rule: Rejecting

    def __post_init__(self) -> None:
        for trait in ("targeted", "soft"):
            object.__setattr__(self, trait, getattr(self.inner, trait))

    def _table(self, out: Tensor) -> dict[str, Tensor]:
        logits = out[:, :-1]
        above = (out[:, -1] - logits.amax(1)) / self.rule.weight
        return {"logits": logits, "reject": above + self.rule.threshold}

    def loss(self, out: Any, goal: Goal) -> Tensor:
        return self.inner.loss(self._table(out), goal)

    def won(self, out: Any, goal: Goal) -> Tensor:
        answer: Tensor = out.argmax(1)
        won: Tensor = (answer != goal.y) & (answer != out.shape[1] - 1)
        return won

    def score(self, out: Any, goal: Goal) -> Tensor:
        return self.inner.score(self._table(out), goal)
