"""The exponential moving average of the weights, a network of its own."""

from __future__ import annotations

import copy

import torch
from torch import nn


def twin(model: nn.Module) -> nn.Module:
    """A copy of the model in eval mode that takes no gradients."""
    return copy.deepcopy(model).eval().requires_grad_(False)


def decay_at(step: int, decay: float) -> float:
    """min(decay, (1 + t) / (10 + t)): young averages forget the random start (Rebuffi et al. 2021).

    >>> [round(decay_at(t, 0.995), 3) for t in (0, 10, 10_000)]
    [0.1, 0.55, 0.995]
    """
    return min(decay, (1 + step) / (10 + step))


@torch.no_grad()
def follow(average: nn.Module, model: nn.Module, step: int, decay: float) -> None:
    """average <- d average + (1 - d) model with d = decay_at(step, decay); buffers are the model's
    own.
    """
    share = 1 - decay_at(step, decay)
    for mean, new in zip(average.parameters(), model.parameters(), strict=True):
        mean.lerp_(new, share)
    for copy_, buffer in zip(average.buffers(), model.buffers(), strict=True):
        copy_.copy_(buffer)
