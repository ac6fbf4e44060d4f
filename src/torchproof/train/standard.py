"""Standard training, the baseline of every comparison."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from torchproof.train.method import Batch, Method, answers, cross_entropy


@dataclass(frozen=True)
class Standard(Method):
    """Plain training without an attack: CE(f(x), y)."""

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        return cross_entropy(answers(model, batch.x), batch)
