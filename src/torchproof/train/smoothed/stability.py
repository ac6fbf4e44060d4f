"""Stability training (Zheng et al. 2016) for smoothing (Li, Chen, Wang and Carin 2019)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn

from torchproof.core.errors import InputError
from torchproof.train.method import Batch, answers, cross_entropy
from torchproof.train.smoothed.votes import NOISE, Noisy, mean_cross_entropy, votes


@dataclass(frozen=True)
class Stability(Noisy):
    """Stability training: CE(f(x), y) + lam CE(f(x + n), p(x)), p(x) the softmax of the clean
    logits, n Gaussian noise (Li et al. 2019; Zheng et al. 2016).

    The gradient flows into both arguments. lam: 2, with which Jeong and Shin 2020 measured the
    method; m: noisy versions, over which the second term is averaged; noisy: labels are learnt on
    the noisy versions, CE(f(x + n), y), and not on the clean image. Deviation: noise alone is
    added, without the distortions of Zheng et al. Raises InputError for lam < 0.
    """

    lam: float = 2.0
    noisy: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.lam < math.inf:
            raise InputError(f"lam = {self.lam!r}", "a number >= 0", "2 is usual")

    @property
    def passes(self) -> int:
        return 1 + self.m

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        clean, z = answers(model, batch.x), votes(model, batch.x, batch.drawn[NOISE])
        apart = -(clean.softmax(1).unsqueeze(1) * z.log_softmax(2)).sum(2).mean(1)
        learnt = mean_cross_entropy(z, batch) if self.noisy else cross_entropy(clean, batch)
        return learnt + self.lam * apart
