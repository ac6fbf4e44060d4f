"""Regularisation of units that may change their sign (Xiao, Tjeng, Shafiullah and Madry 2019)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from torchproof.core.errors import InputError
from torchproof.train.certified.bounding import Bounding
from torchproof.train.certified.layers import switching
from torchproof.train.method import Batch


@dataclass(frozen=True)
class ReLUStability(Bounding):
    """A term for sums: -lam sum tanh(1 + l u) over all ReLUs, [l, u] the intervals before them
    (Xiao et al. 2019): Sum(AT(), ReLUStability(), L1()).

    It is least where no unit changes its sign within the threat, which makes complete verification
    quick. Deviation: plain intervals, where the authors' are tightened in the first layers. Raises
    InputError for lam < 0.
    """

    lam: float = 1e-3

    regulariser: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.lam < math.inf:
            raise InputError(f"lam = {self.lam!r}", "a number >= 0", "1e-4 to 1e-2 is usual")

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        share = self.share(batch)
        if share == 0:
            share = torch.finfo(torch.float32).eps
        passed = self.bounds(model, batch, batch.x, self.due(share))
        terms = [
            torch.tanh(1 + z.lower.flatten(1) * z.upper.flatten(1)).sum(1)
            for z in switching(passed)
        ]
        return -self.lam * torch.stack(terms).sum(0)
