"""Adversarial training (Madry, Makelov, Schmidt, Tsipras and Vladu 2018)."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.attack.combine import Attack
from torchproof.attack.starts import Start, Uniform
from torchproof.core.objectives import CrossEntropy
from torchproof.core.threats import AnyThreat
from torchproof.train.inner import craft, pgd
from torchproof.train.method import Batch, Method, answers


@dataclass(frozen=True)
class AT(Method):
    """Madry's adversarial training: CE(f(x'), y), x' the last iterate of PGD on CE (Madry et al.
    2018, eq. 2.1).

    steps: of PGD; length: of a step in units of eps (2/255 for 8/255); start: of PGD; ramp: share
    of the training over which eps grows from 0, which spares small networks the plateau of a
    constant answer. Deviations: 10 steps, as in later work, where the paper has 7 (CIFAR-10); x'
    is made in eval mode, where the authors' code uses batch statistics. Raises InputError for
    parts that do not fit.
    """

    threat: AnyThreat
    steps: int = 10
    length: float = 0.25
    start: Start = field(default_factory=Uniform)
    ramp: float = 0.0

    def __post_init__(self) -> None:
        _ = self.attack  # a combination that cannot work fails here, not in the first step

    @cached_property
    def attack(self) -> Attack:
        return pgd(self.threat, CrossEntropy(), self.steps, self.length, self.start, self.ramp)

    def prepare(self, model: nn.Module, batch: Batch) -> Batch:
        return craft(self.attack, model, batch, ramp=self.ramp)

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        assert batch.adv is not None, "losses are read from a prepared batch"
        return F.cross_entropy(answers(model, batch.adv), batch.y, reduction="none")
