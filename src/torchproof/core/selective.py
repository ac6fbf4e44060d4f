"""One part of a defence at a time: the class first, then the detector (Bryniarski et al. 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchproof.core.objectives import Goal, Judged, Margin, Objective
from torchproof.core.rejection import Rejecting
from torchproof.core.unaware import logits_of


@dataclass(frozen=True)
class Accepted(Judged):
    """As little suspicion as possible, whatever the class: threshold - reject, times the weight of
    `rule`, which judges.
    """

    rule: Rejecting = Rejecting()

    def loss(self, out: Any, goal: Goal) -> Tensor:
        room: Tensor = self.rule.weight * (self.rule.threshold - out["reject"])
        return room


@dataclass(frozen=True)
class Selective(Judged):
    """`inner` of the logits while it is not won, then `Accepted`: every step follows the gradient
    of one of the two alone (selective PGD, Bryniarski et al. 2021; from memory of the paper).
    Judged as `rule` judges.

    The two losses cannot be compared with each other: use searches that do not compare (PGD).
    """

    inner: Objective = Margin()
    rule: Rejecting = Rejecting()

    def __post_init__(self) -> None:
        for trait in ("targeted", "soft"):
            object.__setattr__(self, trait, getattr(self.inner, trait))

    def loss(self, out: Any, goal: Goal) -> Tensor:
        logits = logits_of(out)
        accepted = Accepted(self.rule).loss(out, goal).to(logits)
        return torch.where(self.inner.won(logits, goal), accepted, self.inner.loss(logits, goal))
