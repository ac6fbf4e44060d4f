"""Sums of an adversarial and a bounded loss (De Palma et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from torchproof.train.certified.bounding import worst_logits
from torchproof.train.certified.expressive import Expressive
from torchproof.train.method import Batch, cross_entropy


@dataclass(frozen=True)
class MTLIBP(Expressive):
    """MTL-IBP: (1 - alpha) CE(f(x'), y) + alpha CE(-m, y), x' of PGD, m the lower bounds of the
    margins by intervals (De Palma et al. 2024).
    """

    def mixed(self, logits: Tensor, lower: Tensor, batch: Batch) -> Tensor:
        bounded = cross_entropy(worst_logits(lower, batch.y), batch)
        return (1 - self.alpha) * cross_entropy(logits, batch) + self.alpha * bounded
