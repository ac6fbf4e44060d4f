"""Training on linear bounds of the margins over intervals of the layers (Zhang et al. 2020)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor, nn

from torchproof.train.certified.bounding import margins
from torchproof.train.certified.ibp import IBP
from torchproof.train.certified.traces import trace_of
from torchproof.train.method import Batch
from torchproof.verify import bounds


@dataclass(frozen=True)
class CROWNIBP(IBP):
    """CROWN-IBP: IBP's loss at m = (1 - beta) m_IBP + beta m_CROWN-IBP, beta from 1 to 0 over the
    ramp (Zhang et al. 2020).

    After the ramp it is IBP. Linear bounds cost a walk back per other class; the authors' later
    fusion of loss and bound, which needs one, is left out.
    """

    def prepare(self, model: nn.Module, batch: Batch) -> Batch:
        ready = super().prepare(model, batch)
        if not 0 < self.share(batch) < 1:
            return ready
        walks = (trace_of(model, batch.x).classes - 1) * len(batch.x)
        return replace(ready, spent=(ready.spent[0] + walks, ready.spent[1] + walks))

    def lower(self, model: nn.Module, batch: Batch, share: float) -> Tensor:
        if share == 1:
            return super().lower(model, batch, share)
        x, threat = self.region(batch, share)
        passed = self.bounds(model, batch, x, threat, bounds.CROWN_IBP)
        linear = margins(passed, batch.y)
        return share * margins(replace(passed, bound=bounds.IBP), batch.y) + (1 - share) * linear
