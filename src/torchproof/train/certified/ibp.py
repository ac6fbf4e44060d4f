"""Training on interval bounds (Gowal et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from torchproof.core.errors import InputError
from torchproof.core.threats import Threat
from torchproof.train.certified.bounding import Bounding, margins, worst_logits
from torchproof.train.certified.traces import follow
from torchproof.train.method import Batch, answers, cross_entropy


@dataclass(frozen=True)
class IBP(Bounding):
    """IBP: kappa CE(f(x), y) + (1 - kappa) CE(-m, y), m the lower bounds of the margins by
    intervals, merged into the last layers (Gowal et al. 2019).

    kappa: the weight of the clean loss at the beginning and at the end of the ramp; before the ramp
    the clean loss is alone. The clean pass is in train mode and moves the batch-norm statistics;
    where kappa is 0 such a pass is made for them alone. Raises InputError for a kappa outside [0,
    1].
    """

    kappa: tuple[float, float] = (1.0, 0.5)

    def __post_init__(self) -> None:
        super().__post_init__()
        pair = tuple(self.kappa) if isinstance(self.kappa, (tuple, list)) else ()
        if len(pair) != 2 or not all(0 <= k <= 1 for k in pair):
            remedy = "write kappa=(1, 0.5)"
            raise InputError(f"kappa = {self.kappa!r}", "two numbers in [0, 1]", remedy)

    @property
    def passes(self) -> int:
        return 1 + super().passes

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        share = self.share(batch)
        start, end = self.kappa
        kappa = start + (end - start) * share
        if share == 0 or kappa == 1:
            return cross_entropy(answers(model, batch.x), batch)
        robust = (1 - kappa) * self.bounded(model, batch, share)
        if kappa == 0:
            follow(model, batch.x)
            return robust
        return robust + kappa * cross_entropy(answers(model, batch.x), batch)

    def bounded(self, model: nn.Module, batch: Batch, share: float) -> Tensor:
        """(B,) the losses beside the clean ones."""
        return cross_entropy(worst_logits(self.lower(model, batch, share), batch.y), batch)

    def lower(self, model: nn.Module, batch: Batch, share: float) -> Tensor:
        """(B, K - 1) the bounds of the margins that are trained on."""
        x, threat = self.region(batch, share)
        return margins(self.bounds(model, batch, x, threat), batch.y)

    def region(self, batch: Batch, share: float) -> tuple[Tensor, Threat]:
        """Around which images, and how far, bounds are to hold."""
        return batch.x, self.due(share)
