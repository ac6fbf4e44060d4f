"""Training globally robust networks (Leino et al. 2021)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from torchproof.core.errors import InputError
from torchproof.core.norms import L1, L2, Linf, name_of
from torchproof.train.certified.bounding import Bounding
from torchproof.train.certified.traces import trace_of
from torchproof.train.method import Batch, answers, cross_entropy
from torchproof.verify.lipschitz.gloro import pairwise, rejecting


@dataclass(frozen=True)
class GloRo(Bounding):
    """GloRo: CE(f(x) with a logit more, y), which is max_{i != j} z_i + eps K_ij for the answer j,
    and K the product of operator norms (Leino et al. 2021, sec. 3).

    So an answer that the constants do not certify counts as lost, and small constants are learnt.
    eps grows with the ramp. Deviation: norms are upper bounds, by Gram iteration, where the paper
    has power iteration, so that what is trained is what is certified. Raises InputError for
    another norm than Linf, L2 and L1.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.threat.norm, (Linf, L2, L1)):
            given = f"a Lipschitz constant in {name_of(self.threat.norm)}"
            raise InputError(given, "linf, l2 or l1", "write l2:0.5")

    @property
    def passes(self) -> int:
        return 1

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        logits, share = answers(model, batch.x), self.share(batch)
        if share == 0:
            return cross_entropy(logits, batch)
        graph = trace_of(model, batch.x).now(model, batch, stopping=False)
        about = self.due(share)
        with torch.autocast(batch.x.device.type, enabled=False), torch.enable_grad():
            constants = pairwise(graph, about.norm, batch.x)
        return cross_entropy(rejecting(logits, constants, about.eps), batch)
