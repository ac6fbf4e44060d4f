"""TRADES (Zhang, Yu, Jiao, Xing, El Ghaoui and Jordan 2019)."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.attack.starts import Gaussian, Start
from torchproof.core.objectives import KL, Objective
from torchproof.train.factor import check_factor
from torchproof.train.inner import Adversarial
from torchproof.train.method import Batch, answers, cross_entropy


@dataclass(frozen=True)
class TRADES(Adversarial):
    """TRADES: CE(f(x), y) + beta KL(p(x) || p(x')), x' the last iterate of PGD on that KL (Zhang
    et al. 2019, eq. 5).

    The gradient flows into both arguments of KL, as in the authors' code. beta: 6 as for CIFAR-10
    (1 favours clean accuracy); length: of a step in units of eps (0.007 for 0.031); start: normal
    noise of 0.001, because the KL has no gradient at x; the rest as in `Adversarial`. p(x) is
    computed once per batch, in eval mode. Raises InputError for a start that is not random, and for
    beta < 0.
    """

    length: float = 0.007 / 0.031
    start: Start = field(default_factory=Gaussian)
    beta: float = 6.0

    def __post_init__(self) -> None:
        check_factor("beta", self.beta, "the usual value is 6, or 1 for more clean accuracy")
        super().__post_init__()

    @property
    def objective(self) -> Objective:
        return KL()

    @property
    def passes(self) -> int:
        return 2

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        assert batch.adv is not None, "losses are read from a prepared batch"
        z, moved = answers(model, batch.x), answers(model, batch.adv)
        kl = F.kl_div(F.log_softmax(moved, 1), F.softmax(z, 1), reduction="none").sum(1)
        return cross_entropy(z, batch) + self.beta * kl
