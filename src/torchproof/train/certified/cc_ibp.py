"""Convex combinations of margins (De Palma et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from torchproof.train.certified.bounding import worst_logits
from torchproof.train.certified.expressive import Expressive
from torchproof.train.method import Batch, cross_entropy
from torchproof.verify.inputs import rows_of


@dataclass(frozen=True)
class CCIBP(Expressive):
    """CC-IBP: CE(-((1 - alpha) m(x') + alpha m), y), m(x') the margins of PGD's x', m their lower
    bounds by intervals (De Palma et al. 2024).
    """

    def mixed(self, logits: Tensor, lower: Tensor, batch: Batch) -> Tensor:
        rows = rows_of(batch.y, logits.shape[1]).to(logits)
        reached = (rows * logits[:, None]).sum(2)
        both = (1 - self.alpha) * reached + self.alpha * lower
        return cross_entropy(worst_logits(both, batch.y), batch)
