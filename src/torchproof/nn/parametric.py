"""Smooth activations with one or two learned numbers (Dai, Mahloujifar and Mittal 2021, arXiv
2110.05626). Where the paper has one set for the whole network, a network of ours has one for each
width of its maps, as for every activation with weights.

What has to be positive is the exponential of a weight, where the authors take the absolute value:
smooth, and weight decay pulls it to 1 instead of to 0.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.core.errors import InputError


class PSiLU(nn.Module):
    """x sigmoid(alpha x), alpha = exp(log_alpha) > 0 learned; SiLU at the start. Raises InputError
    for an alpha that is not positive.
    """

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__()
        self.log_alpha = nn.Parameter(_log(alpha))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.log_alpha.exp() * x)


class PSSiLU(nn.Module):
    """x (sigmoid(alpha x) - beta) / (1 - beta), which rises to the left of 0 for beta > 0.

    alpha = exp(log_alpha); beta = |b| / (1 + |b|) in [0, 1), where the authors' |b| has no bound.
    Both are learned, from SiLU (alpha 1, beta 1e-8: at 0 itself |b| has no slope). Raises
    InputError for values outside.
    """

    def __init__(self, alpha: float = 1.0, beta: float = 1e-8) -> None:
        super().__init__()
        if not 0 < beta < 1:
            raise InputError(f"beta = {beta!r}", "a number in (0, 1)", "write beta=1e-8")
        self.log_alpha = nn.Parameter(_log(alpha))
        self.b = nn.Parameter(torch.tensor(beta / (1 - beta)))

    def forward(self, x: Tensor) -> Tensor:
        # (s - beta) / (1 - beta) = s - |b| (1 - s), and 1 - sigmoid(t) = sigmoid(-t)
        t = self.log_alpha.exp() * x
        return x * (torch.sigmoid(t) - self.b.abs() * torch.sigmoid(-t))


class PSoftplus(nn.Module):
    """log(1 + exp(alpha x)) / alpha, alpha = exp(log_alpha) > 0 learned; softplus with beta = 10 at
    the start. Raises InputError for an alpha that is not positive.
    """

    def __init__(self, alpha: float = 10.0) -> None:
        super().__init__()
        self.log_alpha = nn.Parameter(_log(alpha))

    def forward(self, x: Tensor) -> Tensor:
        alpha = self.log_alpha.exp()
        return F.softplus(alpha * x) / alpha


def _log(alpha: float) -> Tensor:
    if not 0 < alpha < math.inf:
        raise InputError(f"alpha = {alpha!r}", "a positive number", "write alpha=1")
    return torch.tensor(math.log(alpha))
