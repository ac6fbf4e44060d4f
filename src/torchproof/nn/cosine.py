"""A last layer that answers with scaled cosines, as hypersphere embedding (Pang et al. 2020) and
self-paced adversarial training (Hou, Han and Li 2023) want it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.core.errors import InputError, ModelError


class CosineHead(nn.Module):
    """s (cos(w_k, h) + b_k): features h (B, D) to logits (B, K).

    scale: s > 0, the inverse temperature of the softmax, a buffer `cosine_scale` by which training
    methods know the layer. Weights and features are normalised in the forward pass only, so that
    averages and perturbations of the weights act on what is stored. Features of length 0 have
    cosine 0. Deviation: Hou et al. 2023 overwrite the weights with their directions in every
    forward pass, and leave s away when they test.
    """

    cosine_scale: Tensor

    def __init__(self, features: int, classes: int, scale: float = 8.0, bias: bool = True) -> None:
        super().__init__()
        if isinstance(scale, bool) or not 0 < scale < math.inf:
            remedy = "8 is that of SPAT, 10 to 15 are those of hypersphere embedding"
            raise InputError(f"scale = {scale!r}", "a finite number > 0", remedy)
        self.weight = nn.Parameter(torch.empty(classes, features))
        self.bias = nn.Parameter(torch.zeros(classes)) if bias else None
        self.register_buffer("cosine_scale", torch.tensor(float(scale)))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))  # as nn.Linear

    def forward(self, h: Tensor) -> Tensor:
        cosines = F.linear(F.normalize(h, dim=1), F.normalize(self.weight, dim=1), self.bias)
        return self.cosine_scale * cosines


def with_cosine_head(net: nn.Module, scale: float = 8.0) -> nn.Module:
    """`net` with its last linear layer replaced, in place, by a cosine head that takes over its
    weights; its bias starts at 0.

    Raises ModelError for a network without a linear layer after the others, InputError for a
    scale that is not > 0.
    """
    linear = [(n, m) for n, m in net.named_modules() if isinstance(m, nn.Linear)]
    if not linear or not linear[-1][0]:
        raise ModelError(
            f"a {type(net).__name__} without a linear layer inside",
            "a network that ends in a linear layer",
            "end the network in torchproof.nn.cosine.CosineHead yourself",
        )
    name, last = linear[-1]
    head = CosineHead(last.in_features, last.out_features, scale, last.bias is not None)
    head.to(last.weight)
    with torch.no_grad():
        head.weight.copy_(last.weight)
    path, _, own = name.rpartition(".")
    setattr(net.get_submodule(path), own, head)
    return net
