"""Turning a weakness into a strength: the three figures against naive loops, and the row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from torchproof.adaptive.defence import Material
from torchproof.adaptive.judge import Judge
from torchproof.adaptive.trial import carry_out
from torchproof.adaptive.zoo.weakness import (
    DEFENCE,
    MOST,
    SIGMA,
    STRIDE,
    Between,
    Near,
    Tests,
)
from torchproof.core.objectives import Goal
from torchproof.core.threats import parse
from torchproof.data import load

Tests.__test__ = False  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def material() -> Material:
    data, test = load("digits", split="train"), load("digits")
    return Material(data.take(100), data.subset(range(100, 120)), test.take(20))


@pytest.fixture
def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).requires_grad_(False)


def _alone(network: nn.Module, x: torch.Tensor, label: int, towards: bool) -> int:
    """Steps for one image, one after the other."""
    for number in range(1, MOST + 1):
        live = x.clone().requires_grad_()
        loss = F.cross_entropy(network(live[None]), torch.tensor([label]))
        loss.backward()  # type: ignore[no-untyped-call]
        assert live.grad is not None
        x = (x + (-1 if towards else 1) * STRIDE * live.grad.sign()).clamp(0, 1)
        if (int(network(x[None]).argmax()) == label) == towards:
            return number
    return MOST


def test_steps_are_counted_as_one_by_one(linear: nn.Module, material: Material) -> None:
    tests, x = Tests(linear), material.test.x[:6]
    logits = linear(x)
    figures = tests.figures(x, logits)
    for n in range(6):
        first, second = logits[n].topk(2).indices.tolist()
        assert int(figures[n, 1]) == _alone(linear, x[n], first, False)
        assert int(figures[n, 2]) == _alone(linear, x[n], second, True)


def test_noise_and_the_largest_of_the_figures(linear: nn.Module, material: Material) -> None:
    tests, x = Tests(linear), material.test.x[:6]
    torch.manual_seed(0)
    noise = tests.noise(x, linear(x))
    torch.manual_seed(0)
    moved = linear(x + SIGMA * torch.randn_like(x))
    torch.testing.assert_close(noise, (linear(x).softmax(1) - moved.softmax(1)).abs().sum(1))
    tests.limits = torch.tensor([1e9, 4.0, 1e9])
    steps = tests.figures(x, linear(x))[:, 1]
    torch.testing.assert_close(tests(x, linear(x)), steps / 4)


def test_the_band_is_a_sum_of_hinges(linear: nn.Module, material: Material) -> None:
    x, y = material.test.x[:4], material.test.y[:4]
    near = Near(linear, x[0], samples=2)
    out = near(x)
    torch.testing.assert_close(out["logits"], linear(x))
    torch.testing.assert_close(out["near"][:, 1], linear(x + near.noises[0]))
    target = (y + 1) % 10
    band, goal = Between(0.5, 1.0), Goal(y, target, torch.zeros(4))
    loss, score = band.loss(out, goal), band.score(out, goal)
    for n in range(4):
        total, least = 0.0, float("inf")
        for z in out["near"][n].tolist():
            t = int(target[n])
            m = z[t] - max(v for j, v in enumerate(z) if j != t)
            total += max(0.0, 0.5 - m) + max(0.0, m - 1.0)
            least = min(least, m - 0.5, 1.0 - m)
        assert float(loss[n]) == pytest.approx(-total, abs=1e-5)
        assert float(score[n]) == pytest.approx(least, abs=1e-5)


def test_what_breaks_it_and_what_breaks_the_network_alone(made_row: Callable[..., Any]) -> None:
    material, defended, base = made_row("weakness")
    x, y = material.test.x, material.test.y
    judge, ids = Judge(defended, defended.rule, 11), torch.arange(len(x))
    threat = parse("linf:0.3")
    hand = carry_out(DEFENCE.adaptive(defended, threat, material)[0], judge, x, y, ids)
    assert hand.won > 0.8 * len(x)
    naive = DEFENCE.naive(defended, threat, material)[0]
    found = carry_out(naive, judge, x, y, ids)
    on_the_network = Judge(base)(found.x, y).lost
    assert bool(on_the_network.all()) and not bool(found.verdict.lost[~on_the_network].any())
