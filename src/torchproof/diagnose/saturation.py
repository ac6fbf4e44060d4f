"""How far the gates of a network are closed or stuck: there, gradients end."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from torchproof.core.asides import listening
from torchproof.core.errors import InputError


@torch.no_grad()
def gate_saturation(model: nn.Module, x: Tensor, batch_size: int = 256) -> tuple[float, ...]:
    """The share of |h| > 8 of each gate sigmoid(h), in the order in which the layers run, over the
    images x (B, C, H, W); in the model's present mode.

    Gates that are saturated hide gradients: figures near 1 call for attacks without gradients.
    Raises InputError for a network whose layers tell of no gate (`Sparta` does).
    """
    shares: list[Tensor] = []
    for part in torch.split(x, batch_size):
        with listening() as told:
            model(part)
        if "gate" not in told:
            given = f"a {type(model).__name__} without gates"
            raise InputError(given, "layers that tell 'gate'", "build it with activation='sparta'")
        shares.append(torch.stack(told["gate"], 1))
    return tuple(float(v) for v in torch.cat(shares).double().mean(0))
