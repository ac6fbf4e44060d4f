"""Training against hypocritical examples (Tao, Feng, Yi and Chen 2022, arXiv 2012.14738): THRM,
which bounds the hypocritical risk from above.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.attack.starts import Gaussian, Start
from torchproof.core.errors import InputError
from torchproof.core.objectives import Hypocritical, Objective
from torchproof.train.factor import check_factor
from torchproof.train.inner import Adversarial
from torchproof.train.method import Batch, answers, cross_entropy


@dataclass(frozen=True)
class THRM(Adversarial):
    """THRM: CE(f(x), y) + beta KL(p(x) || p(x')), x' the last iterate of PGD *down* the
    cross-entropy of the label, a hypocritical example (Tao et al. 2022).

    beta: 6 by default; the paper compares 1 to 100, and with TRADES at equal clean accuracy, not
    at equal beta; start: normal noise of 0.01 input units, as in the authors' code; the rest as in
    `Adversarial`. x and x' pass through the network as one batch, so batch statistics are those of
    both; the gradient flows into both arguments of KL. Raises InputError for beta < 0
    and for a patience, which counts wrong answers.
    """

    start: Start = field(default_factory=lambda: Gaussian(0.01))
    beta: float = 6.0

    def __post_init__(self) -> None:
        check_factor("beta", self.beta, "the paper takes 1 to 100")
        if self.patience != math.inf:
            given = f"THRM with patience = {self.patience!r}"
            remedy = "leave patience out: hypocritical images are made to be answered right"
            raise InputError(given, "an attack that goes on to its last step", remedy)
        super().__post_init__()

    @property
    def objective(self) -> Objective:
        return Hypocritical()

    @property
    def passes(self) -> int:
        return 2

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        assert batch.adv is not None, "losses are read from a prepared batch"
        z, moved = answers(model, torch.cat([batch.x, batch.adv])).chunk(2)
        kl = F.kl_div(F.log_softmax(moved, 1), F.softmax(z, 1), reduction="none").sum(1)
        return cross_entropy(z, batch) + self.beta * kl
