"""Derived models: a network up to a layer, frozen, and a softmax layer trained on it for the same
task (Ma et al. 2019). They say what class each layer already sees.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.core.errors import ModelError
from torchproof.core.keys import permutation

_BATCH = 128


class Heads(nn.Module):
    """Layers, each (B, ...), to the logits (B, K) of one linear head for each; they are flattened.

    widths: the numbers of entries of the layers. In fresh weights, drawn from torch's global
    generator. Raises ModelError for a layer of another number of entries.
    """

    def __init__(self, widths: Sequence[int], classes: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(width, classes) for width in widths)

    def forward(self, layers: Sequence[Tensor]) -> list[Tensor]:
        found = []
        for head, layer in zip(self.heads, layers, strict=True):
            assert isinstance(head, nn.Linear)
            flat = layer.flatten(1).to(head.weight.dtype)
            if flat.shape[1] != head.in_features:
                given = f"a layer of {flat.shape[1]} entries an image"
                remedy = "score images of the size that the detector was fitted on"
                raise ModelError(given, f"{head.in_features}", remedy)
            found.append(head(flat))
        return found


def train_heads(
    heads: Heads,
    layers: Callable[[Tensor], Sequence[Tensor]],
    y: Tensor,
    epochs: int,
    lr: float,
    seed: int,
) -> None:
    """Adam on the cross-entropy of labels y (N,), with the layers `layers(rows)` of rows of y; all
    heads side by side, which do not touch each other. Leaves them in eval mode and frozen.

    Raises ModelError for a loss that is not finite.
    """
    optimiser = torch.optim.Adam(heads.parameters(), lr)
    heads.train()
    for epoch in range(epochs):
        for rows in torch.split(permutation(len(y), seed, "heads", epoch), _BATCH):
            told = heads(layers(rows))
            labels = y[rows.to(y.device)].to(told[0].device)
            loss = torch.stack([F.cross_entropy(logits, labels) for logits in told]).sum()
            if not bool(loss.isfinite()):
                given = f"a loss of {float(loss.detach())} while the derived models were trained"
                raise ModelError(given, "a finite loss", "lower lr, and look at the layers")
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    heads.eval().requires_grad_(False)
