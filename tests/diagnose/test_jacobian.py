"""Jacobians and first-order distances on networks where they are known."""

from __future__ import annotations

import torch
from torch import nn

from torchproof.diagnose import jacobian, linearised_robustness


def test_first_order_distances_of_a_linear_model_are_exact() -> None:
    g = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(9, 3)).double()
    x = torch.rand(6, 1, 3, 3, generator=g, dtype=torch.float64)
    y = torch.randint(3, (6,), generator=g)
    z, slopes = jacobian(net, x)
    torch.testing.assert_close(z, net(x).detach())
    torch.testing.assert_close(slopes, net[1].weight.detach().expand(6, 3, 9))
    w, out = net[1].weight.detach(), net(x).detach()
    for row in range(6):
        own = int(y[row])
        wanted = min(
            float((out[row, own] - out[row, k]) / (w[own] - w[k]).norm())
            for k in range(3) if k != own
        )  # fmt: skip
        torch.testing.assert_close(float(linearised_robustness(net, x, y)[row]), wanted)
