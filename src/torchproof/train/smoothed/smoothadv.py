"""SmoothAdv (Salman, Yang, Li, Zhang, Zhang, Razenshteyn and Bubeck 2019)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from torch import Tensor, nn

from torchproof.attack.pgd import check_steps
from torchproof.attack.starts import Start, Zero
from torchproof.core.threats import AnyThreat
from torchproof.train.at import AT
from torchproof.train.method import Batch
from torchproof.train.smoothed.votes import NOISE, Voting, mean_cross_entropy, soft_vote, votes


class Vote(nn.Module):
    """The soft smoothed classifier of a network with fixed noise (B, m, C, H, W), for these B
    images in this order: x (B, C, H, W) to log mean softmax (B, K).
    """

    def __init__(self, model: nn.Module, noise: Tensor) -> None:
        super().__init__()
        self.model, self.noise = model, noise
        self.draws = noise.shape[1]  # how often the network is asked for one answer

    def forward(self, x: Tensor) -> Tensor:
        return soft_vote(votes(self.model, x, self.noise))


@dataclass(frozen=True)
class SmoothAdv(Voting):
    """SmoothAdv: the mean of CE(f(x' + n_i), y) over m Gaussian noises, x' the last iterate of PGD
    on -log mean_i softmax(f(x' + n_i))_y with the same noises (Salman et al. 2019).

    threat: l2 in the paper, eps 0.25 to 2; m: 1, 2, 4 or 8; steps: 2 to 10; length: of a step in
    units of eps, 2 / steps by default; ramp: the share of the training, in steps, over which eps
    grows from 0 (the authors' 10 of 150 epochs). Start from trained weights for the method with
    pre-training: `fit` trains the model as it is given, a plan has `start`. Deviations: balls are
    cut with the range of images exactly; an image without a gradient stays where it is; no DDN.
    Stopping early (FAT) does not apply to it. Raises InputError for parts that do not fit.
    """

    threat: AnyThreat
    steps: int = 10
    length: float | None = None
    start: Start = field(default_factory=Zero)
    ramp: float = 1 / 15

    def __post_init__(self) -> None:
        super().__post_init__()
        check_steps(self.steps)
        _ = self.attacker.attack  # what cannot work fails here, not in the first step

    @property
    def attacker(self) -> AT:
        """PGD on the smoothed classifier."""
        length = self.length if self.length is not None else 2 / self.steps
        return AT(self.threat, self.steps, length, self.start, self.ramp)

    def prepare(self, model: nn.Module, batch: Batch) -> Batch:
        ready = super().prepare(model, replace(batch, patience=math.inf))
        found = self.attacker.craft(Vote(model, ready.drawn[NOISE]), ready)
        return replace(found, patience=batch.patience)

    def judged(self, z: Tensor, batch: Batch) -> Tensor:
        return mean_cross_entropy(z, batch)
