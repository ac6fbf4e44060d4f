"""The Parseval term: its step, its minimum, what it does to a training."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from torchproof.core.errors import InputError
from torchproof.data import load
from torchproof.train import Batch, Settings, Standard, Sum, fit
from torchproof.train.parseval import Parseval


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 20), nn.Linear(20, 4)
        ).double()


def batch() -> Batch:
    x = torch.rand(5, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return Batch(x, torch.arange(5) % 4, torch.arange(5), 0.0, 0)


def singular(w: Tensor) -> Tensor:
    values: Tensor = torch.linalg.svdvals(w.detach().flatten(1).double())
    return values


def test_a_step_on_the_term_is_the_step_of_the_authors() -> None:
    """W <- (1 + b) W - b W W^T W, for wide, tall and convolutional weights alike."""
    net, b = network(), 0.01
    wanted = {}
    for name, p in net.named_parameters():
        w = p.detach().flatten(1) if p.ndim > 1 else p.detach()
        moved = (1 + b) * w - b * w @ w.T @ w if p.ndim > 1 else w
        wanted[name] = moved.view_as(p).clone()
    losses = Parseval(b).losses(net, batch())
    assert losses.shape == (5,) and len(set(losses.tolist())) == 1
    sgd = torch.optim.SGD(net.parameters(), 1.0)
    losses.mean().backward()  # type: ignore[no-untyped-call]
    sgd.step()
    for name, p in net.named_parameters():
        torch.testing.assert_close(p.detach(), wanted[name])


def test_its_value_against_a_plain_sum_and_its_minimum() -> None:
    net = network()
    total = 0.0
    for w in (net[0].weight, net[3].weight, net[4].weight):
        s = singular(w)  # type: ignore[arg-type]
        total += float((s.square() - 1).square().sum())
    assert float(Parseval(0.6).losses(net, batch())[0].detach()) == pytest.approx(0.15 * total)
    for p in net.parameters():
        if p.ndim > 1:
            nn.init.orthogonal_(p)
    assert float(Parseval().losses(net, batch())[0].detach()) == pytest.approx(0, abs=1e-12)


def test_training_with_it_draws_the_singular_values_to_1() -> None:
    """Near 1 a singular value s is drawn by 2 beta (1 - s), so that a loss whose gradient is no
    longer than 1 holds it at most 1 / (2 beta) away.
    """
    data = load("digits", split="train").take(200)
    spread = []
    for method in (Standard(), Sum(Standard(), Parseval(2.0))):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
        how = Settings(epochs=10, batch_size=50, lr=0.1, weight_decay=0.0, held_out=0)
        list(fit(net, (data.x, data.y), method, how))
        weights: list[Tensor] = [net[1].weight, net[3].weight]  # type: ignore[list-item]
        gaps = [(singular(w) - 1).abs().max() for w in weights]
        spread.append(float(torch.stack(gaps).max()))
    assert spread[1] < 0.25 < spread[0]


def test_bad_numbers_and_networks_without_matrices() -> None:
    with pytest.raises(InputError, match="beta"):
        Parseval(-1)
    assert Parseval().losses(nn.BatchNorm2d(1).double(), batch()).tolist() == [0.0] * 5
