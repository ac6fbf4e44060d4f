"""Training on small boxes around adversarial images (Mueller, Eckert, Fischer and Vechev 2023)."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn

from torchproof.attack.starts import Start, Uniform
from torchproof.core.errors import InputError
from torchproof.core.threats import Threat
from torchproof.train.at import AT
from torchproof.train.certified.ibp import IBP
from torchproof.train.method import Batch


@dataclass(frozen=True)
class SABR(IBP):
    """SABR: CE(-m, y), m by intervals over the box of radius lam eps around x', the last iterate of
    PGD in the ball of radius (1 - lam) eps (Mueller et al. 2023).

    lam: 0.4 for MNIST 0.1, 0.6 for MNIST 0.3, 0.7 for CIFAR-10 8/255, 0.1 for 2/255; 1 is IBP.
    steps, length, start: of PGD, length in units of its radius. Deviations: the steps of PGD keep
    their length; the propagated box is not shrunk between layers, as the authors do for 2/255. Add
    their L1 term as Sum(SABR(), L1(1e-5)). Raises InputError for lam outside (0, 1].
    """

    kappa: tuple[float, float] = (0.0, 0.0)
    lam: float = 0.4
    steps: int = 8
    length: float = 0.25
    start: Start = field(default_factory=Uniform)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.lam <= 1:
            remedy = "0.4 is that of MNIST at 0.1, 1 is IBP"
            raise InputError(f"lam = {self.lam!r}", "a number in (0, 1]", remedy)
        _ = self._inner(self.threat)  # what cannot work fails here, not in the first step

    def _inner(self, threat: Threat) -> AT:
        return AT(threat, self.steps, self.length, self.start)

    def prepare(self, model: nn.Module, batch: Batch) -> Batch:
        ready, share = super().prepare(model, batch), self.share(batch)
        if share == 0 or self.lam == 1:
            return ready
        return self._inner(self.due(share * (1 - self.lam))).craft(model, ready)

    def region(self, batch: Batch, share: float) -> tuple[Tensor, Threat]:
        centre = batch.x if batch.adv is None else batch.adv
        return centre, self.due(share * self.lam)
