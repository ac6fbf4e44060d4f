"""SCORE: squared errors of probabilities in the place of TRADES' terms (Pang, Lin, Yang, Zhu and
Yan 2022, arXiv 2202.10103).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.core.objectives import Classification, Goal, Objective
from torchproof.train.factor import check_factor
from torchproof.train.inner import Adversarial
from torchproof.train.method import Batch, answers


@dataclass(frozen=True)
class SquaredError(Classification):
    """|softmax(z) - y|^2 with y (B, K) probabilities; its gradient is zero where they agree."""

    soft: ClassVar[bool] = True

    def loss(self, out: Tensor, goal: Goal) -> Tensor:
        return (out.softmax(1) - goal.y).square().sum(1)


@dataclass(frozen=True)
class SCORE(Adversarial):
    """SCORE: |p(x) - y|^2 + beta |p(x') - p(x)|^2 with squared errors of probabilities, x' from PGD
    on the second (Pang et al. 2022).

    A squared error obeys a triangle inequality, so being stable does not ask for being wrong. y is
    one-hot, or smoothed by LabelSmoothing. beta: 3 to 4; the arguments else are those of
    `Adversarial`. The gradient flows into both p. Deviation: x' is made in eval mode, where the
    authors' code uses batch statistics. Raises InputError for beta < 0, and for a start that is not
    random.
    """

    beta: float = 4.0

    def __post_init__(self) -> None:
        check_factor("beta", self.beta, "3 and 4 are usual")
        super().__post_init__()

    @property
    def objective(self) -> Objective:
        return SquaredError()

    @property
    def passes(self) -> int:
        return 2

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        assert batch.adv is not None, "losses are read from a prepared batch"
        p, moved = answers(model, batch.x).softmax(1), answers(model, batch.adv).softmax(1)
        hot = F.one_hot(batch.y, p.shape[1]).to(p.dtype)
        target = (1 - batch.smoothing) * hot + batch.smoothing / p.shape[1]
        accuracy, stability = (p - target).square().sum(1), (moved - p).square().sum(1)
        return accuracy + self.beta * stability
