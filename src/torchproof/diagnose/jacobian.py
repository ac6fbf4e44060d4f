"""First-order robustness: the Jacobian of the logits, and the distance at which they would tie."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from torchproof.attack.untouched import untouched


def jacobian(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (N, K) and their derivatives (N, K, D) at images x (N, C, H, W), in eval mode."""
    with untouched(model, 0, x.device), torch.enable_grad():
        at = x.detach().requires_grad_()
        z = model(at)
        rows = [
            torch.autograd.grad(z[:, k].sum(), at, retain_graph=k + 1 < z.shape[1])[0].flatten(1)
            for k in range(z.shape[1])
        ]
    return z.detach(), torch.stack(rows, 1)


def linearised_robustness(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """(N,) min over k != y of (z_y - z_k) / |dz_y/dx - dz_k/dx|_2: the L2 distance to the boundary
    to first order (Etmann et al. 2019), negative where the image is misclassified.
    """
    z, slopes = jacobian(model, x)
    rows = torch.arange(len(y), device=y.device)
    lead = z[rows, y][:, None] - z
    steep = (slopes[rows, y][:, None] - slopes).norm(dim=2)
    ratio = lead / steep.clamp_min(torch.finfo(z.dtype).tiny)
    ratio[rows, y] = torch.inf
    least: Tensor = ratio.amin(1)
    return least
