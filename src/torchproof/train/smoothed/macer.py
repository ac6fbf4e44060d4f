"""MACER (Zhai, Dan, He, Zhang, Gong, Ravikumar, Hsieh and Wang 2020)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from torchproof.core.errors import InputError
from torchproof.train.method import Batch, cross_entropy
from torchproof.train.smoothed.votes import Voting, soft_vote


@dataclass(frozen=True)
class MACER(Voting):
    """MACER: -log p_y + lam (sigma / 2) [gamma - (Phi^-1(q_1) - Phi^-1(q_2))]_+, the second term
    for images that q gets right (Zhai et al. 2020, alg. 1).

    p is the mean softmax over m Gaussian noises, q the mean softmax of beta times the logits, q_1
    and q_2 its two largest entries: (sigma / 2) (Phi^-1(q_1) - Phi^-1(q_2)) is the certified radius
    of the soft smoothed classifier. lam: 12 for CIFAR-10 at sigma 0.25, 4 at 0.5, 12 at 1; beta,
    gamma, m: the authors'; deferred: the share of the training without the second term, that
    before the first drop of the learning rate for sigma 1 (and 1/3 in the runs of Jeong and Shin
    2020). Deviation: logarithms of means are taken without the 1e-10 that keeps the authors' from
    0. Raises InputError for numbers that cannot be meant.
    """

    m: int = field(default=16, kw_only=True)
    lam: float = 12.0
    gamma: float = 8.0
    beta: float = 16.0
    deferred: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        good = 0 <= self.lam < math.inf and 0 <= self.deferred <= 1
        if not good or not (0 < self.gamma < math.inf and 0 < self.beta < math.inf):
            given = f"lam = {self.lam!r}, deferred = {self.deferred!r}, "
            raise InputError(
                f"{given}gamma = {self.gamma!r}, beta = {self.beta!r}",
                "lam >= 0, a share of the training, gamma > 0 and beta > 0",
                "lam=12, deferred=0, gamma=8, beta=16 are the authors'",
            )

    def judged(self, z: Tensor, batch: Batch) -> Tensor:
        learnt = cross_entropy(soft_vote(z), batch)
        if not self.lam or batch.progress < self.deferred:
            return learnt
        return learnt + self.lam * self.sigma / 2 * self.missing(z, batch)

    def missing(self, z: Tensor, batch: Batch) -> Tensor:
        """(B,) by how much the difference of the quantiles falls short of gamma; 0 for images whose
        largest entry is another than the label's.
        """
        q = (self.beta * z).softmax(2).mean(1)
        top = q.topk(2)
        (first, second), place = top.values.unbind(1), top.indices[:, 0]
        with torch.no_grad():  # infinite where q_1 rounds to 1: that is beyond any gamma
            gap = torch.special.ndtri(first) - torch.special.ndtri(second)
            counts = (place == batch.y) & (gap < self.gamma)
        # rows that do not count are taken out first: an infinite quantile has no gradient
        first, second = (torch.where(counts, t, 0.5) for t in (first, second))
        short = self.gamma - (torch.special.ndtri(first) - torch.special.ndtri(second))
        return torch.where(counts, short, 0.0)
