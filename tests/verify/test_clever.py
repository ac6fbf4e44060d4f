"""An estimate, and what can be said of it for certain."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from torchproof.core import keys
from torchproof.core.norms import L1, L2, Linf, Norm
from torchproof.verify.lipschitz import radius
from torchproof.verify.lipschitz.clever import clever, end_of


@pytest.mark.parametrize("norm", [Linf(), L2(), L1()], ids=["linf", "l2", "l1"])
def test_exact_on_a_linear_network_and_cut_at_the_ball(norm: Norm) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(8, 3)).double().eval()
    x = torch.rand(3, 2, 2, 2, dtype=torch.float64)
    y = net(x).argmax(1)
    exact = radius(net, x, y, norm)
    found = clever(net, x, y, norm, within=100.0, batches=3, samples=4)
    assert torch.allclose(found, exact, rtol=1e-6)
    within = float(exact.min()) / 2
    cut = clever(net, x, y, norm, within=within, batches=3, samples=4)
    assert torch.allclose(cut, torch.full_like(cut, within))
    assert not bool(clever(net, x, (y + 1) % 3, norm, 1.0, batches=3, samples=4).any())


class Bump(nn.Module):
    """Logits (3 - |x|^2, |x|^2): on the L2 ball of radius r the margin's slope is at most 4 r."""

    def forward(self, x: Tensor) -> Tensor:
        size = x.flatten(1).square().sum(1)
        return torch.stack([3 - size, size], 1)


def test_near_the_true_constant_of_a_smooth_function() -> None:
    x = torch.zeros(1, 2, 1, 1, dtype=torch.float64)
    found = clever(Bump(), x, torch.tensor([0]), L2(), within=1.0, batches=40, samples=64)
    assert float(found) == pytest.approx(3 / 4, rel=0.02)


@pytest.mark.slow
def test_points_depend_on_seed_and_id_alone() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 9), nn.Tanh(), nn.Linear(9, 3)).double().eval()
    x = torch.rand(3, 1, 2, 2, dtype=torch.float64)
    y, ids = net(x).argmax(1), torch.tensor([7, 3, 5])
    whole = clever(net, x, y, L2(), 3.0, batches=8, samples=8, ids=ids)
    order = torch.tensor([2])
    part = clever(net, x[order], y[order], L2(), 3.0, batches=8, samples=8, ids=ids[order])
    assert torch.allclose(whole[order], part, rtol=1e-9)
    other = clever(net, x, y, L2(), 3.0, batches=8, samples=8, ids=ids, seed=1)
    assert not torch.allclose(whole, other, rtol=1e-9)


@pytest.mark.parametrize("shape", [1.5, 4.0])
def test_the_end_of_a_reverse_weibull_distribution(shape: float) -> None:
    """Samples by its inverse, end - scale (-log u)^(1 / shape); the end is found, beyond them."""
    u = keys.uniform(keys.mix(0, "weibull"), 0, (2000,), dtype=torch.float64)[0].numpy()
    values = 5.0 - 0.7 * (-np.log(u)) ** (1 / shape)
    found = end_of(values)
    assert values.max() <= found == pytest.approx(5.0, abs=0.05)
    assert end_of(np.full(7, 2.5)) == 2.5
