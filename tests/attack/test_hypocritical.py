"""Hypocritical attacks against closed forms on linear models and a naive loop."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.attack.catalogue import pgd
from torchproof.attack.combine import Attack
from torchproof.attack.hypocritical import (
    hypocritical,
    hypocritical_cw,
    hypocritical_fgsm,
    require_friendly,
)
from torchproof.attack.run import Run
from torchproof.attack.starts import Zero
from torchproof.core.errors import InputError
from torchproof.core.norms import L2, Linf
from torchproof.core.objectives import CrossEntropy, Hypocritical, Margin
from torchproof.core.sites import Universal
from torchproof.core.threats import Threat

ATTACKS = {"fgsm": hypocritical_fgsm, "pgd": hypocritical, "cw": hypocritical_cw}


class Binary(nn.Module):
    """z = (0, w x + b)."""

    def __init__(self) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(0)
        self.w = nn.Parameter(torch.randn(12, generator=g, dtype=torch.float64))
        self.b = nn.Parameter(0.1 - 0.5 * self.w.detach().sum())

    def forward(self, x: Tensor) -> Tensor:
        z = x.flatten(1) @ self.w + self.b
        return torch.stack([torch.zeros_like(z), z], 1)


def data(n: int = 60) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    x = 0.3 + 0.4 * torch.rand(n, 1, 3, 4, generator=g, dtype=torch.float64)
    return x, torch.randint(2, (n,), generator=g)


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("norm", [Linf(), L2()], ids=["linf", "l2"])
def test_an_error_of_a_linear_model_is_reached_within_the_dual_norm(name: str, norm: Any) -> None:
    """Correct within eps exactly where |w x + b| < eps |w|_dual."""
    model, (x, y) = Binary(), data()
    eps = 0.05 if isinstance(norm, Linf) else 0.15
    dual = model.w.abs().sum() if isinstance(norm, Linf) else model.w.norm()
    z = (x.flatten(1) @ model.w + model.b).detach()
    right = (z > 0) == (y == 1)
    reachable = right | (z.abs() < eps * dual)
    assert 5 < int((~right & reachable).sum()) < int((~right).sum()) - 3
    found = ATTACKS[name](Threat(norm, eps))(model, x[~right], y[~right])
    assert torch.equal(found.lost, reachable[~right])
    moved = x[~right] + found.value
    assert bool((norm.length(moved - x[~right]) <= eps * (1 + 1e-9)).all())
    with torch.no_grad():
        assert torch.equal(model(moved).argmax(1) == y[~right], found.lost)


def test_the_published_descent_as_a_loop(make_problem: Any) -> None:
    problem = make_problem(n=12, k=5, dtype=torch.float64, wrong=10)
    eps, steps = 0.08, 20
    attack = hypocritical(Threat(Linf(), eps), steps, 0.25, start=Zero())
    found = attack(problem.model, problem.x[:10], problem.y[:10], run=Run(slots=3))
    outcomes = []
    for i in range(10):
        x, y = problem.x[i : i + 1], problem.y[i : i + 1]
        moved = x.clone()
        for _ in range(steps):
            if int(problem.model(moved).argmax()) == int(y):
                break
            live = moved.clone().requires_grad_()
            (grad,) = torch.autograd.grad(F.cross_entropy(problem.model(live), y), live)
            moved = torch.clamp(moved - eps / 4 * grad.sign(), x - eps, x + eps).clamp(0, 1)
        reached = int(problem.model(moved).argmax()) == int(y)
        outcomes.append(reached)
        assert bool(found.lost[i]) == reached
        if reached:
            assert torch.allclose(x + found.value[i], moved, atol=1e-12)
    assert 1 <= sum(outcomes) <= 9


@pytest.mark.parametrize("objective", [CrossEntropy(), Margin()], ids=["ce", "margin"])
def test_the_loss_falls_where_the_adversary_would_raise_it(
    objective: Any, make_problem: Any
) -> None:
    problem = make_problem(n=10, k=5, wrong=10)
    threat = Threat(Linf(), 0.02)
    friend = hypocritical(threat, 10, 0.25, objective, Zero())
    foe = pgd(threat, 10, 0.25, objective, Zero())
    losses = []
    for attack in (friend, foe):
        run = Run(patience=float("inf"), last=True)
        value = attack(problem.model, problem.x, problem.y, run=run).value
        with torch.no_grad():
            out = problem.model(problem.x + value)
        losses.append(F.cross_entropy(out, problem.y, reduction="none"))
    with torch.no_grad():
        clean = F.cross_entropy(problem.model(problem.x), problem.y, reduction="none")
    assert bool((losses[0] < clean).all()) and bool((losses[1] > clean).all())


@pytest.mark.parametrize(
    "attack",
    [
        pgd(Threat(Linf(), 0.1)),
        Attack(
            Threat(Linf(), 0.1, site=Universal()), Hypocritical(), pgd(Threat(Linf(), 1)).search
        ),
    ],
)
def test_refused(attack: Attack) -> None:
    with pytest.raises(InputError, match="Hypocritical") as caught:
        require_friendly(attack)
    assert caught.value.remedy
