"""A randomised model as a deterministic one: its prediction averaged over several draws."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from torchproof.core.sites import Model


class Averaged(nn.Module):
    """log of the mean softmax over `draws` answers of a randomised model, (B, K).

    Its gradient is that of the expected prediction (EOT, Athalye et al. 2018): a point counts as
    adversarial when the averaged prediction is wrong, not when one lucky draw is. One answer costs
    `draws` evaluations, which the oracle counts. Deviation: AutoAttack averages losses and
    gradients of single draws and judges by one draw.
    """

    def __init__(self, model: Model, draws: int) -> None:
        super().__init__()
        self.model, self.draws = model, draws
        # not .train(), which would reset frozen parts
        self.training = model.training if isinstance(model, nn.Module) else False

    def forward(self, x: Tensor) -> Tensor:
        answers: list[Any] = [self.model(x) for _ in range(self.draws)]
        wide = torch.promote_types(answers[0].dtype, torch.float32)
        logs = torch.stack([torch.log_softmax(z.to(wide), 1) for z in answers])
        return torch.logsumexp(logs, 0) - math.log(self.draws)
