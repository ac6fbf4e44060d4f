"""Margins at the images, and the norms in which they are divided by constants."""

from __future__ import annotations

import torch
from torch import Tensor

from torchproof.core.norms import L1, L2, Linf, Norm
from torchproof.verify.graph import Graph
from torchproof.verify.inputs import rows_of


def margins_at(graph: Graph, x: Tensor, y: Tensor) -> Tensor:
    """(B, K - 1) margins z_y - z_t at x, t != y in order."""
    with torch.no_grad():
        logits = graph.run(x)[graph.output]
        rows = rows_of(y, logits.shape[-1]).to(logits.dtype)
        margins: Tensor = (rows @ logits.unsqueeze(2))[..., 0]
        return margins


def dual(norm: Norm) -> Norm:
    """The norm q with 1/p + 1/q = 1."""
    pairs: dict[type[Norm], Norm] = {Linf: L1(), L2: L2(), L1: Linf()}
    return pairs[type(norm)]


def from_joint(margins: Tensor, constant: float, norm: Norm) -> Tensor:
    """(B,) radii from margins (B, K - 1) and one Lipschitz constant of all logits, both in `norm`:
    a margin changes by at most the dual norm of e_y - e_t times that, which is sqrt(2) for L2.
    """
    pair = torch.tensor([[1.0, -1.0]], dtype=margins.dtype, device=margins.device)
    factor = dual(norm).length(pair)
    return (margins / (factor * constant)).amin(1).clamp_min(0)
