"""Parseval regularisation: weights that neither stretch nor shrink (Cisse, Bojanowski, Grave,
Dauphin and Usunier 2017).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from torchproof.core.errors import InputError
from torchproof.train.method import Batch, Method


@dataclass(frozen=True)
class Parseval(Method):
    """A term for sums: beta / 4 sum |W W^T - I|_F^2 over the weights of more than one dimension,
    each as a matrix (out, rest): Sum(Standard(), Parseval(0.1)). All singular values are drawn to
    1.

    A gradient step of length eta on it is W <- (1 + eta beta) W - eta beta W W^T W. The authors,
    and Lassance et al. 2019 after them, take that step after every update, with 0.01 for eta beta;
    here it is part of the gradient, so that beta = 0.01 / (learning rate) draws as much, momentum
    aside. W W^T and W^T W have the same gradient; the smaller one is used, and what the larger one
    adds, |out - rest|, is a constant that is left out. Raises InputError for beta < 0.
    """

    beta: float = 0.1

    regulariser: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.beta < math.inf:
            given, remedy = f"beta = {self.beta!r}", "0.01 / (learning rate) is usual"
            raise InputError(given, "a number >= 0", remedy)

    @property
    def passes(self) -> int:
        return 0

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        gaps = [_gap(w.flatten(1)) for w in model.parameters() if w.ndim > 1]
        total = torch.stack(gaps).sum() if gaps else batch.x.new_zeros(())
        return (self.beta / 4 * total).expand(len(batch.x))


def _gap(w: Tensor) -> Tensor:
    """|W W^T - I|_F^2 of a matrix with fewer rows than columns, else that of its transpose."""
    w = w.T if len(w) > w.shape[1] else w
    with torch.autocast(w.device.type, enabled=False):
        w = w.to(torch.promote_types(w.dtype, torch.float32))
        return (w @ w.T - torch.eye(len(w), dtype=w.dtype, device=w.device)).square().sum()
