"""A classifier's answers to many images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from torchproof.attack.untouched import home, untouched


@torch.no_grad()
def logits_of(model: nn.Module, x: Tensor, batch_size: int = 128) -> Tensor:
    """(N, K) on the CPU, of images x (N, C, H, W), in eval mode; the model stays as it is."""
    place = home(model)
    with untouched(model):
        return torch.cat([model(part.to(place)).cpu() for part in torch.split(x, batch_size)])


def wrong(model: nn.Module, x: Tensor, y: Tensor, batch_size: int = 128) -> Tensor:
    """(N,) bool: which images the model does not take for what the labels (N,) say."""
    return logits_of(model, x, batch_size).argmax(1) != y.cpu()
