"""Hypocritical attacks against closed forms on linear models and a naive loop."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.attack.ascend import Run
from torchproof.attack.catalogue import pgd
from torchproof.attack.combine import Attack
from torchproof.attack.hypocritical import (
    befriend,
    hypocritical,
    hypocritical_cw,
    hypocritical_fgsm,
)
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
    found = befriend(ATTACKS[name](Threat(norm, eps)), model, x, y)
    assert torch.equal(found.before, right) and torch.equal(found.after, reachable)
    assert bool((norm.length(found.value) <= eps * (1 + 1e-9)).all())
    with torch.no_grad():
        assert torch.equal(model(x + found.value).argmax(1) == y, found.after)


def test_the_published_descent_as_a_loop(make_problem: Any) -> None:
    problem = make_problem(n=12, k=5, dtype=torch.float64, wrong=10)
    eps, steps = 0.08, 20
    attack = hypocritical(Threat(Linf(), eps), steps, 0.25, start=Zero())
    found = befriend(attack, problem.model, problem.x, problem.y, Run(slots=3))
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
        assert bool(found.after[i]) == reached
        if reached:
            assert torch.allclose(x + found.value[i], moved, atol=1e-12)
        else:
            assert not bool(found.value[i].any())
    assert 1 <= sum(outcomes) <= 9


@pytest.mark.parametrize("name", ATTACKS)
def test_no_correct_example_is_touched_and_the_identity_is_exact(
    name: str, make_problem: Any, watch: Any, counted: Any
) -> None:
    problem = make_problem(n=14, k=5, wrong=8)
    counter = counted(problem.model)
    seen = watch(counter, problem.x, problem.y)
    found = befriend(
        ATTACKS[name](Threat(Linf(), 0.1)), counter, problem.x, problem.y, Run(slots=4)
    )
    seen.check()
    assert not bool(found.value[8:].any()) and bool(found.before[8:].all())
    assert not bool(found.before[:8].any()) and bool((found.after | ~found.before).all())
    with torch.no_grad():
        right = problem.model(problem.x + found.value).argmax(1) == problem.y
    assert torch.equal(right, found.after)
    n, before, after = 14, int(found.before.sum()), int(found.after.sum())
    success = int((found.after & ~found.before).sum())
    assert after - before == success and (n - before) == 8
    assert int(found.spent[:, 0].sum()) == counter.forwards
    assert int(found.spent[:, 1].sum()) == counter.backwards
    assert found.spent[8:].tolist() == [[1, 0]] * 6


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


def test_company_and_order_change_nothing(make_problem: Any) -> None:
    problem = make_problem(n=9, k=5, dtype=torch.float64, wrong=7)
    attack = hypocritical(Threat(Linf(), 0.06), 8)
    whole = befriend(attack, problem.model, problem.x, problem.y, Run(seed=2, slots=9))
    order = torch.tensor([6, 2, 8, 0, 5, 1, 7, 3, 4])
    x, y = problem.x[order], problem.y[order]
    mixed = befriend(attack, problem.model, x, y, Run(seed=2, ids=order, slots=2))
    assert torch.equal(mixed.after, whole.after[order])
    assert torch.allclose(mixed.value, whole.value[order], atol=1e-12)
    assert torch.equal(mixed.spent, whole.spent[order])


def test_nothing_to_do_for_a_perfect_model(make_problem: Any) -> None:
    problem = make_problem(n=4, k=3)
    found = befriend(hypocritical(Threat(Linf(), 0.1)), problem.model, problem.x, problem.y)
    assert bool(found.after.all()) and not bool(found.value.any())
    assert found.spent.tolist() == [[1, 0]] * 4


@pytest.mark.parametrize(
    "attack",
    [
        pgd(Threat(Linf(), 0.1)),
        Attack(
            Threat(Linf(), 0.1, site=Universal()), Hypocritical(), pgd(Threat(Linf(), 1)).search
        ),
    ],
)
def test_refused(attack: Attack, make_problem: Any) -> None:
    problem = make_problem(n=2, k=3)
    with pytest.raises(InputError, match="Hypocritical") as caught:
        befriend(attack, problem.model, problem.x, problem.y)
    assert caught.value.remedy
