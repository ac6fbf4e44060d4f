"""A model whose answers may have no gradient, made searchable; and answers as tables."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from torchproof.core.sites import Model
from torchproof.core.unaware import logits_of


class Attached(nn.Module):
    """Answers as `model`; where autograd finds no way from the logits to the input, a gradient of
    zero is in its place, so that searches run on, blind, instead of being refused.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model
        self.draws = getattr(model, "draws", 1)
        self.training = False

    def forward(self, x: Tensor) -> Any:
        out: Any = self.model(x)
        logits = logits_of(out)
        if not (torch.is_grad_enabled() and x.requires_grad) or logits.requires_grad:
            return out
        tied = logits + 0 * x.flatten(1).sum(1, keepdim=True)
        return {**out, "logits": tied} if isinstance(out, dict) else tied


class AsTable(nn.Module):
    """Logits (B, K) as a table, for objectives that read one; tables stay as they are."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model
        self.draws = getattr(model, "draws", 1)
        self.training = False

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        out: Any = self.model(x)
        return out if isinstance(out, dict) else {"logits": out}


class OnlyLogits(nn.Module):
    """The logits (B, K) of a model that may answer with a table."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model
        self.draws = getattr(model, "draws", 1)
        self.training = False

    def forward(self, x: Tensor) -> Tensor:
        return logits_of(self.model(x))
