"""Regularisation of the first layer's weight (Li, Liu, Wang, Zhou and Xie 2022; reconstructed)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from torchproof.core.errors import ModelError
from torchproof.train.factor import check_factor
from torchproof.train.method import Batch, Method

_KINDS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


def first_weight(model: nn.Module) -> Tensor | None:
    """The weight of the first convolution or linear layer, in the order of the model's modules."""
    return next((m.weight for m in model.modules() if isinstance(m, _KINDS)), None)


@dataclass(frozen=True)
class FirstLayer(Method):
    """A term for sums: decay / 2 |W1|^2, W1 the weight of the first convolution or linear layer
    (reconstructed after Li et al. 2022, who regularise the first layer against catastrophic
    overfitting).

    Its gradient is that of a weight decay of this size on the first layer alone, on top of the
    optimiser's. decay: 0.005 by default, ten times the usual weight decay; 0 changes nothing. The
    figure `first_layer` is |W1|. Where batch norm follows, only the step size of W1 changes. Raises
    InputError for decay < 0, ModelError for a model without such a layer.
    """

    decay: float = 5e-3

    regulariser: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_factor("decay", self.decay, "1e-3 to 5e-2 is usual")

    @property
    def passes(self) -> int:
        return 0

    def prepare(self, model: nn.Module, batch: Batch) -> Batch:
        return batch.with_note(first_layer=_weight(model).detach().norm())

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        term = self.decay / 2 * _weight(model).square().sum()
        return term.to(torch.promote_types(term.dtype, torch.float32)).expand(len(batch.x))


def _weight(model: nn.Module) -> Tensor:
    weight = first_weight(model)
    if weight is None:
        given = f"FirstLayer with a {type(model).__name__}"
        raise ModelError(given, "a model with a convolution or linear layer", "leave it out")
    return weight
