"""Standard training, the baseline of every comparison."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.train.method import Batch, Method, answers


@dataclass(frozen=True)
class Standard(Method):
    """Plain training without an attack: CE(f(x), y)."""

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        return F.cross_entropy(answers(model, batch.x), batch.y, reduction="none")
