"""The plain training of rows whose loss is not that of a classifier's logits."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from torchproof.attack.untouched import forked
from torchproof.core import keys
from torchproof.data.dataset import Dataset

Loss = Callable[[Tensor, Tensor], Tensor]


def descend(
    net: nn.Module, loss: Loss, data: Dataset, *, epochs: int, lr: float = 2e-3, seed: int = 0,
    batch: int = 128,
) -> nn.Module:  # fmt: skip
    """Adam with a cosine rate on loss(x, y), a number for images (B, C, H, W) and labels (B,);
    the network in train mode meanwhile, in eval mode and without gradients afterwards. All
    randomness is that of `seed`.
    """
    optimiser = torch.optim.Adam(net.parameters(), lr=lr)
    steps = epochs * -(-len(data) // batch)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    net.train()
    with forked(keys.seed_of(seed, "descent"), torch.device("cpu")), torch.enable_grad():
        for _ in range(epochs):
            for rows in torch.split(torch.randperm(len(data)), batch):
                optimiser.zero_grad()
                loss(data.x[rows], data.y[rows]).backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                rate.step()
    return net.eval().requires_grad_(False)
