"""Consistency regularisation (Jeong and Shin 2020)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from torchproof.core.errors import InputError
from torchproof.train.method import Batch
from torchproof.train.smoothed.around import OnVotes
from torchproof.train.smoothed.votes import soft_vote


@dataclass(frozen=True)
class Consistency(OnVotes):
    """Consistency: the inner loss + lam mean_i KL(p || p_i) + eta H(p), p_i the softmax at noise i,
    p their mean, H the entropy (Jeong and Shin 2020).

    Around NoiseAugmentation with m = 2, around SmoothAdv, or any method on noisy versions; the
    gradient flows into all p's. lam: 20 on CIFAR-10 at sigma 0.25 and 10 at 0.5 and 1, 10 on MNIST
    at 0.25 and 5 at 0.5 and 1, 1 around SmoothAdv; eta: 0.5. With both 0 it is the inner method.
    Raises InputError for numbers < 0 and for an inner method with one noise, which always agrees
    with itself.
    """

    lam: float = 10.0
    eta: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 <= self.lam < math.inf and 0 <= self.eta < math.inf):
            given = f"lam = {self.lam!r}, eta = {self.eta!r}"
            raise InputError(given, "numbers >= 0", "10 and 0.5 are usual")
        if self.m < 2:
            remedy = "write Consistency(NoiseAugmentation(sigma=0.25, m=2))"
            raise InputError(f"Consistency of m = {self.m}", "two noises or more", remedy)

    def term(self, z: Tensor, batch: Batch) -> Tensor:
        each, mean = z.log_softmax(2), soft_vote(z)
        p = mean.exp()
        apart = (p * (mean - each.mean(1))).sum(1)
        entropy = -(p * mean).sum(1)
        return self.lam * apart + self.eta * entropy
