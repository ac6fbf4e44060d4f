"""Products of an adversarial and a bounded loss (De Palma et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from torchproof.train.certified.bounding import worst_logits
from torchproof.train.certified.expressive import Expressive
from torchproof.train.method import Batch, cross_entropy


@dataclass(frozen=True)
class ExpIBP(Expressive):
    """Exp-IBP: CE(f(x'), y)^(1 - alpha) CE(-m, y)^alpha, x' of PGD, m the lower bounds of the
    margins by intervals (De Palma et al. 2024).

    Deviation: losses below the resolution of the precision count as that small, where powers have
    no slope.
    """

    def mixed(self, logits: Tensor, lower: Tensor, batch: Batch) -> Tensor:
        reached = cross_entropy(logits, batch)
        bounded = cross_entropy(worst_logits(lower, batch.y), batch)
        least = torch.finfo(reached.dtype).eps
        return reached.clamp_min(least) ** (1 - self.alpha) * bounded.clamp_min(least) ** self.alpha
