"""APGD, step by step: checkpoints, step-halving, the iteration as published."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from torchproof.attack.apgd import APGD, checkpoints
from torchproof.attack.cases import Point
from torchproof.attack.combine import Attack
from torchproof.attack.run import Run
from torchproof.attack.starts import Zero
from torchproof.core.norms import L2, Linf
from torchproof.core.objectives import (
    CrossEntropy,
)
from torchproof.core.sets import Ball
from torchproof.core.threats import Threat

# ---- APGD


def test_checkpoints_as_published() -> None:
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]


@pytest.mark.parametrize("steps", [1, 2, 5, 10, 20, 50, 100, 200, 1000])
def test_checkpoints_follow_the_recursion_of_the_paper(steps: int) -> None:
    """p_(j+1) = p_j + max(p_j - p_(j-1) - 0.03, 0.06), in whole steps of at least one."""
    window, at, marks = max(22 * steps // 100, 1), 0, []
    while at + window <= steps:
        at += window
        marks.append(at)
        window = max(window - max(3 * steps // 100, 1), max(6 * steps // 100, 1))
    assert checkpoints(steps) == marks


def climb(losses: list[float], steps: int) -> list[float]:
    """The step sizes of APGD that is told these losses, whatever it asks."""
    one = torch.ones(1, 1, dtype=torch.float64)
    ball = Ball.of(L2(), one[:, 0], -9 * one, 9 * one)
    search, key = APGD(steps, start=Zero()), torch.tensor([0])
    state, sizes = search.init(ball, key), []
    for loss in losses:
        told = torch.tensor([loss], dtype=torch.float64)
        state = search.step(ball, key, state, Point(told, told, told > 9, one.clone(), (1, 1)))
        sizes.append(float(state.step))
    return sizes


def by_hand(losses: list[float], steps: int) -> list[float]:
    """Conditions 1 and 2 of Croce and Hein 2020a, written as their algorithm reads."""
    marks, step, best, sizes = checkpoints(steps), 2.0, losses[0], []
    last, halved, best_then = 0, True, losses[0]
    for t, loss in enumerate(losses):
        best = max(best, loss)
        if t in marks:
            rises = sum(losses[k] > losses[k - 1] for k in range(last + 1, t + 1))
            first = rises <= 0.75 * (t - last)
            second = not halved and best_then >= best
            halved = first or second
            step = step / 2 if halved else step
            last, best_then = t, best
        sizes.append(step)
    return sizes


RISING = [float(k) for k in range(100)]
SEQUENCES: dict[str, list[float]] = {
    "rising": RISING,
    "falling": RISING[::-1],
    "flat": [1.0] * 100,
    "zigzag": [k % 2 for k in range(100)],
    "rising then flat": RISING[:30] + [29.0] * 70,
    "sawtooth without a new best": [*RISING[:22], *[k % 5 for k in range(78)]],
    "one new best late": [
        *RISING[:22],
        *[(k % 10) / 10 for k in range(60)],
        99.0,
        *[k % 10 for k in range(17)],
    ],
    "noise": np.random.default_rng(0).normal(size=100).tolist(),
    "walk": np.random.default_rng(1).normal(0.5, 1, size=100).cumsum().tolist(),
}


@pytest.mark.parametrize("name", SEQUENCES)
def test_the_step_is_halved_when_the_paper_says_so(name: str) -> None:
    losses = [float(v) for v in SEQUENCES[name]]
    assert climb(losses, 100) == by_hand(losses, 100)
    assert climb(losses[:20], 20) == by_hand(losses[:20], 20)


def test_known_halvings() -> None:
    """Never for a rising loss; at every checkpoint for a falling one; every other one for a saw
    without new bests.
    """
    assert set(climb(RISING, 100)) == {2.0}
    assert climb(RISING[::-1], 100)[-1] == 2.0 * 0.5**8
    sizes = climb([*RISING[:23], *[23.0 - 1e-3 * (k % 7 == 0) for k in range(77)]], 100)
    assert sizes[21] == sizes[22] == 2.0


def test_apgd_is_the_published_iteration() -> None:
    """x' = P(x + a (P(x + step g) - x) + (1 - a)(x - x_before)), back to the best point at a
    halving.
    """
    g = torch.Generator().manual_seed(1)
    weight = torch.randn(3, 4, generator=g, dtype=torch.float64)

    def model(x: Tensor) -> Tensor:
        z = x.flatten(1)
        return z @ weight.T + torch.stack(
            [(9 * z).sin().sum(1), (7 * z).cos().sum(1), 0 * z[:, 0]], 1
        )

    x, y, eps, steps = torch.full((1, 1, 1, 4), 0.5).double(), torch.tensor([0]), 0.3, 20
    attack = Attack(Threat(Linf(), eps), CrossEntropy(), APGD(steps, start=Zero()))
    found = attack(model, x, y, run=Run(last=True, patience=math.inf))

    def ask(d: Tensor) -> tuple[float, Tensor]:
        at = (x + d).requires_grad_()
        loss = nn.functional.cross_entropy(model(at), y)
        return float(loss.detach()), torch.autograd.grad(loss, at)[0]

    marks, step = checkpoints(steps), 2 * eps
    d = before = torch.zeros_like(x)
    losses: list[float] = []
    best, best_then = (-math.inf, d, d), -math.inf
    last, halved, halvings = 0, True, 0
    for t in range(steps):
        loss, grad = ask(d)
        losses.append(loss)
        if loss > best[0]:
            best = (loss, d, grad)
        if t == 0:
            best_then = loss
        if t in marks:
            rises = sum(losses[k] > losses[k - 1] for k in range(last + 1, t + 1))
            halved = rises <= 0.75 * (t - last) or (not halved and best_then >= best[0])
            last, best_then = t, best[0]
            if halved:
                step, d, grad, halvings = step / 2, best[1], best[2], halvings + 1
        z = (d + step * grad.sign()).clamp(-eps, eps)
        a = 1.0 if t == 0 else 0.75
        before, d = d, (d + a * (z - d) + (1 - a) * (d - before)).clamp(-eps, eps)
    assert halvings > 1 and losses != sorted(losses)
    assert torch.allclose(found.value, d, atol=1e-12)
