"""First into a class, then past its detector (Tramer et al. 2020, against asymmetrical adversarial
training).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from torchproof.core.errors import InputError
from torchproof.core.objectives import Goal, Judged, margin
from torchproof.core.rejection import Rejecting
from torchproof.core.selective import Accepted
from torchproof.core.unaware import logits_of


@dataclass(frozen=True)
class TwoStage(Judged):
    """z_t - max_{j != t} z_j, t being `goal.target`, as long as it is at most `slack`; from there
    on `Accepted` alone. Judged as `rule` judges.

    Combine it with `EveryTarget`. The losses of the two stages cannot be compared with each other:
    use searches that do not compare (PGD).
    """

    rule: Rejecting = Rejecting()
    slack: float = 0.01
    targeted: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.slack >= 0:
            raise InputError(f"slack = {self.slack!r}", "a number >= 0", "0.01 is usual")

    def loss(self, out: Any, goal: Goal) -> Tensor:
        ahead = -margin(logits_of(out), goal.target)
        accepted = Accepted(self.rule).loss(out, goal).to(ahead)
        return torch.where(ahead <= self.slack, ahead, accepted)
