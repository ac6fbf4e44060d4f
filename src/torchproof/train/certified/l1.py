"""The L1 norm of the weights, which certified training is regularised with."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from torchproof.core.errors import InputError
from torchproof.train.method import Batch, Method

_KINDS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


@dataclass(frozen=True)
class L1(Method):
    """A term for sums: decay sum |w| over the weights of convolutions and linear layers (Xiao et
    al. 2019; Mueller et al. 2023).

    Raises InputError for decay < 0.
    """

    decay: float = 1e-5

    regulariser: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.decay < math.inf:
            raise InputError(f"decay = {self.decay!r}", "a number >= 0", "1e-6 to 1e-5 is usual")

    @property
    def passes(self) -> int:
        return 0

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        sums = [m.weight.abs().sum() for m in model.modules() if isinstance(m, _KINDS)]
        total = torch.stack(sums).sum() if sums else batch.x.new_zeros(())
        term = self.decay * total
        return term.to(torch.promote_types(term.dtype, torch.float32)).expand(len(batch.x))
