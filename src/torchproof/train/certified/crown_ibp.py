"""Training on linear bounds of the margins over intervals of the layers (Zhang et al. 2020)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor, nn

from torchproof.core.errors import InputError
from torchproof.train.certified.bounding import margins
from torchproof.train.certified.fusion import fused_loss
from torchproof.train.certified.ibp import IBP
from torchproof.train.certified.traces import trace_of
from torchproof.train.method import Batch
from torchproof.verify import bounds
from torchproof.verify.bounds import Pass


@dataclass(frozen=True)
class CROWNIBP(IBP):
    """CROWN-IBP: IBP's loss at m = (1 - beta) m_IBP + beta m_CROWN-IBP, beta from 1 to 0 over the
    ramp (Zhang et al. 2020).

    After the ramp it is IBP. Linear bounds cost a walk back per other class. fused: one walk bounds
    the sum of exponentials of all margins instead, and the bounded loss is log((1 - beta) S_IBP +
    beta S_CROWN-IBP) (loss fusion, Xu et al. 2020): for many classes. Raises InputError, in the
    first step, for smoothed labels with it.
    """

    fused: bool = False

    def prepare(self, model: nn.Module, batch: Batch) -> Batch:
        if self.fused and batch.smoothing:
            given = f"label smoothing {batch.smoothing:g} around CROWNIBP(fused=True)"
            remedy = "leave out LabelSmoothing, or fused"
            raise InputError(given, "labels as they are: their loss is what is bounded", remedy)
        ready = super().prepare(model, batch)
        if not 0 < self.share(batch) < 1:
            return ready
        each = 1 if self.fused else trace_of(model, batch.x).classes - 1
        walks = each * len(batch.x)
        return replace(ready, spent=(ready.spent[0] + walks, ready.spent[1] + walks))

    def bounded(self, model: nn.Module, batch: Batch, share: float) -> Tensor:
        if share == 1 or not self.fused:
            return super().bounded(model, batch, share)
        return fused_loss(self._linear(model, batch, share), batch.y, share)

    def lower(self, model: nn.Module, batch: Batch, share: float) -> Tensor:
        if share == 1:
            return super().lower(model, batch, share)
        passed = self._linear(model, batch, share)
        linear = margins(passed, batch.y)
        return share * margins(replace(passed, bound=bounds.IBP), batch.y) + (1 - share) * linear

    def _linear(self, model: nn.Module, batch: Batch, share: float) -> Pass:
        return self.bounds(model, batch, *self.region(batch, share), bounds.CROWN_IBP)
