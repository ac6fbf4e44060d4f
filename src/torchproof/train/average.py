"""The average of the weights over a run, a network of its own."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn


class Average(Protocol):
    """How new weights enter the average."""

    def share(self, step: int, steps: int) -> float:
        """The weight in [0, 1] of the newest weights after step `step` (from 0) of `steps`."""
        ...

    @property
    def renews(self) -> bool:
        """Must the statistics of batch normalisation be measured anew for the average?"""
        ...


def twin(model: nn.Module) -> nn.Module:
    """A copy of the model in eval mode that takes no gradients."""
    return copy.deepcopy(model).eval().requires_grad_(False)


@torch.no_grad()
def follow(average: nn.Module, model: nn.Module, share: float) -> None:
    """average <- (1 - share) average + share model; buffers are the model's own."""
    for mean, new in zip(average.parameters(), model.parameters(), strict=True):
        mean.lerp_(new, share)
    for copy_, buffer in zip(average.buffers(), model.buffers(), strict=True):
        copy_.copy_(buffer)


def renew(average: nn.Module, x: Iterable[Tensor], device: torch.device) -> None:
    """Measures the statistics of batch normalisation anew, as means over the batches x."""
    update_bn(x, average, device)
    average.eval()
