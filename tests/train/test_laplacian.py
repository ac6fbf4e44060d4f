"""The Laplacian term against plain sums, and in a training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from torchproof.core.errors import InputError, ModelError
from torchproof.data import load
from torchproof.train import Batch, Settings, Standard, Sum, fit
from torchproof.train.laplacian import LaplacianSmoothness, smoothness


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 8), nn.ReLU(inplace=True),
            nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3),
        ).double()  # fmt: skip


def batch() -> Batch:
    x = torch.rand(7, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return Batch(x, torch.tensor([0, 1, 2, 0, 1, 0, 2]), torch.arange(7), 0.0, 0)


def answers(net: nn.Sequential, x: Tensor) -> list[Tensor]:
    return [net[: i + 1](x).detach() for i in (1, 4, 6)]


def plain(h: Tensor, y: Tensor, power: int) -> float:
    flat, n = h.flatten(1).numpy(), len(h)
    laplacian = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            w = flat[i] @ flat[j] / np.linalg.norm(flat[i]) / np.linalg.norm(flat[j])
            laplacian[i, i] += w
            laplacian[i, j] -= w
    raised = np.linalg.matrix_power(laplacian, power)
    columns = [np.array([float(label == k) for label in y.tolist()]) for k in range(3)]
    return float(sum(c @ raised @ c for c in columns))


@pytest.mark.parametrize("power", [1, 2, 3])
def test_the_term_against_a_plain_loop(power: int) -> None:
    net, b = network(), batch()
    s = [plain(h, b.y, power) for h in answers(net, b.x)]
    wanted = 0.3**power * (abs(s[1] - s[0]) + abs(s[2] - s[1])) / 2
    losses = LaplacianSmoothness(0.3, power).losses(net, b)
    assert losses.tolist() == pytest.approx([wanted] * 7)


def test_power_1_counts_similar_pairs_of_different_labels() -> None:
    h = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 2.0]])
    pairs = 2 * (0.5**0.5 + 0.5**0.5)  # of first and second, second and third; the others are 0
    assert float(smoothness(h, torch.tensor([0, 1, 0]), 1)) == pytest.approx(pairs)
    assert float(smoothness(h, torch.tensor([1, 1, 1]), 2)) == pytest.approx(0, abs=1e-6)


def test_it_can_be_descended_and_trained_with() -> None:
    net, b, term = network(), batch(), LaplacianSmoothness()
    first = term.losses(net, b)[0]
    first.backward()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        for p in net.parameters():
            if p.grad is not None:
                p.sub_(1e-6 * p.grad)
    square = sum(float(p.grad.square().sum()) for p in net.parameters() if p.grad is not None)
    gained = float(first.detach()) - float(term.losses(net, b)[0].detach())
    assert gained == pytest.approx(1e-6 * square, rel=1e-3)  # the gradient is that of the value
    data = load("digits", split="train").take(60)
    how = Settings(epochs=1, batch_size=30, lr=0.01, held_out=0)
    small = nn.Sequential(nn.Flatten(), nn.Linear(64, 9), nn.ReLU(), nn.Linear(9, 9), nn.ReLU(),
                          nn.Linear(9, 10))  # fmt: skip
    (record,) = fit(small, (data.x, data.y), Sum(Standard(), term), how)
    assert record.loss > 0


def test_what_makes_no_sense_is_refused() -> None:
    for bad in ({"gamma": -1.0}, {"power": 0}, {"power": 1.5}):
        with pytest.raises(InputError, match="gamma"):
            LaplacianSmoothness(**bad)
    with pytest.raises(ModelError, match="at least two"):
        LaplacianSmoothness().losses(nn.Sequential(nn.Flatten(), nn.ReLU()), batch())
    ready = LaplacianSmoothness().prepare(network(), batch())
    with pytest.raises(InputError, match="memory"):
        ready.split(3)
