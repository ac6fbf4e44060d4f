"""Self-paced adversarial training with hard-class-pair reweighting (Hou, Han and Li 2023, arXiv
2210.15068), as the authors' code has it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.attack.starts import Gaussian, Start
from torchproof.core.objectives import KL, Classification, Goal, Objective
from torchproof.train.cosine import scale_of
from torchproof.train.factor import check_factor
from torchproof.train.inner import Adversarial, clean_answers
from torchproof.train.method import Batch, answers, cross_entropy
from torchproof.train.rows import Rows


def self_paced(
    cosines: Tensor, y: Tensor, scale: Tensor, margin: float = 0.2, detach: bool = False
) -> Tensor:
    """(B, K) u_y = s (1 + m - c_y) c_y and u_j = s (c_j + m) c_j for the others: the further a
    cosine is from where it should be, the more its logit weighs.

    With the gradient through the factors u_y is largest at c_y = (1 + m) / 2 and u_j smallest at
    c_j = -m / 2; with `detach` they push on, as in circle loss (Sun et al. 2020).
    """
    fixed = cosines.detach() if detach else cosines
    own = F.one_hot(y, cosines.shape[1]).bool()
    return scale * torch.where(own, 1 + margin - fixed, fixed + margin) * cosines


def consistency(p: Tensor, logq: Tensor, offset: float = 0.2) -> Tensor:
    """(B,) sum_i k_i (k_i + n) with k_i = p_i (log p_i - log q_i): n times KL(p || q), and large
    differences once more. At least -K n^2 / 4, and 0 where p = q; p (B, K) are probabilities.
    """
    k = torch.xlogy(p, p) - p * logq
    return (k * (k + offset)).sum(1)


@dataclass(frozen=True)
class Consistency(Classification):
    """How far the answers are from the probabilities y (B, K), large differences of a class
    weighing more (Hou et al. 2023). Its gradient is zero where they agree.
    """

    soft: ClassVar[bool] = True
    offset: float = 0.2

    def loss(self, out: Tensor, goal: Goal) -> Tensor:
        return consistency(goal.y, F.log_softmax(out, 1), self.offset)


@dataclass(frozen=True)
class SPAT(Adversarial):
    """SPAT: cross-entropy of self-paced logits, and beta times the consistency of clean and
    adversarial answers, which x' maximises (Hou et al. 2023).

    With cosines c = z / s of a cosine head: u_y = s (1 + m - c_y) c_y, u_j = s (c_j + m) c_j, k =
    p (log p - log q) of the answers to x and x'; CE(u, y) + beta sum_i k_i (k_i + n). The gradient
    flows through all of it. margin: m; offset: n; detach_weights: the factors as constants, as in
    circle loss; accuracy, consistency: False puts the term of TRADES in its place, CE(z, y) or KL
    (attacked instead), so that both False is TRADES on a cosine head. length, start as in TRADES.
    Raises InputError for negative numbers, ModelError in the first step for another head.
    """

    length: float = 0.007 / 0.031
    start: Start = field(default_factory=Gaussian)
    beta: float = 6.0
    margin: float = 0.2
    offset: float = 0.2
    detach_weights: bool = False
    accuracy: bool = True
    consistency: bool = True

    def __post_init__(self) -> None:
        for name, usual in (("beta", 6), ("margin", 0.2), ("offset", 0.2)):
            check_factor(name, getattr(self, name), f"the usual value is {usual}")
        super().__post_init__()

    @property
    def objective(self) -> Objective:
        return Consistency(self.offset) if self.consistency else KL()

    @property
    def passes(self) -> int:
        return 2

    def begin(self, model: nn.Module, data: Rows, progress: float) -> None:
        scale_of(model)

    def prepare(self, model: nn.Module, batch: Batch) -> Batch:
        scale = scale_of(model)
        z, asked = clean_answers(model, batch)
        cosines, own = z / scale, batch.y[:, None]
        noted = asked.with_note(
            label_cosine=cosines.gather(1, own)[:, 0],
            rival_cosine=cosines.scatter(1, own, -torch.inf).amax(1),
        )
        return self.craft(model, noted, goal=z.softmax(1))

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        assert batch.adv is not None, "losses are read from a prepared batch"
        z, moved = answers(model, batch.x), answers(model, batch.adv)
        return self._accurate(z, scale_of(model), batch) + self.beta * self._stable(z, moved)

    def _accurate(self, z: Tensor, scale: Tensor, batch: Batch) -> Tensor:
        if not self.accuracy:
            return cross_entropy(z, batch)
        u = self_paced(z / scale, batch.y, scale, self.margin, self.detach_weights)
        return cross_entropy(u, batch)

    def _stable(self, z: Tensor, moved: Tensor) -> Tensor:
        p, logq = z.softmax(1), F.log_softmax(moved, 1)
        if not self.consistency:
            return F.kl_div(logq, p, reduction="none").sum(1)
        return consistency(p, logq, self.offset)
