"""Hypersphere embedding in adversarial training (Pang, Yang, Dong, Xu, Zhu and Su 2020)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.train.at import AT
from torchproof.train.cosine import scale_of
from torchproof.train.factor import check_factor
from torchproof.train.method import Batch, answers, cross_entropy
from torchproof.train.rows import Rows


@dataclass(frozen=True)
class HE(AT):
    """HE: AT on a cosine head with a margin, CE(s (cos - m 1_y), y) at x'; the attack sees the same
    s and no margin (Pang et al. 2020).

    margin: m, 0.2; s is the head's, 10 in the paper. The arguments else are those of `AT`.
    Deviation: the head may have a bias. Raises InputError for a margin < 0, ModelError in the first
    step for another head.
    """

    margin: float = 0.2

    def __post_init__(self) -> None:
        check_factor("margin", self.margin, "0.2 is usual")
        super().__post_init__()

    def begin(self, model: nn.Module, data: Rows, progress: float) -> None:
        scale_of(model)

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        assert batch.adv is not None, "losses are read from a prepared batch"
        z, scale = answers(model, batch.adv), scale_of(model)
        own = F.one_hot(batch.y, z.shape[1])
        return cross_entropy(z - scale * self.margin * own, batch)
