"""Alternating PGD: every published schedule of losses and steps, against plain loops."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from torchproof.attack.alternating import (
    LOSSES,
    STEP_SIZES,
    CoinFlip,
    Mixture,
    alternating_pgd,
)
from torchproof.attack.apgd import checkpoints
from torchproof.attack.catalogue import NAMES
from torchproof.attack.combine import Attack, Restarts
from torchproof.attack.pgd import PGD
from torchproof.attack.run import Run
from torchproof.attack.starts import Corner
from torchproof.core import keys
from torchproof.core.errors import InputError, UnknownName
from torchproof.core.expression import parse
from torchproof.core.norms import L2, Linf
from torchproof.core.objectives import (
    DLR,
    KL,
    CrossEntropy,
    Goal,
    Margin,
    Objective,
    TargetedMargin,
)
from torchproof.core.sites import Universal
from torchproof.core.threats import Threat

LINF = Threat(Linf(), 0.1)
LAST = Run(last=True, patience=math.inf)


# ---- which loss at which step, and how far: the published tables, written out


def cross_entropy(z: Tensor, y: int) -> Tensor:
    return z.logsumexp(0) - z[y]


def lead(z: Tensor, y: int) -> Tensor:
    return max(v for k, v in enumerate(z) if k != y) - z[y]


def ratio(z: Tensor, y: int) -> Tensor:
    s = sorted(z, reverse=True)
    return lead(z, y) / (s[0] - s[2] + 1e-12)


ONE: dict[str, Callable[[Tensor, int], Tensor]] = {"CE": cross_entropy, "CW": lead, "DLR": ratio}
SWITCHED = {
    name: [(step < 33, step < 66, True).index(True) for step in range(100)]
    if name.count("-") == 2
    else [int(step >= 50) for step in range(100)]
    for name in LOSSES
    if "-" in name
}


def formula(name: str, step: int, z: Tensor, y: int) -> Tensor:
    if "+" in name:
        first, second = name.split("+")
        return float(first[:4]) * ONE[first[4:]](z, y) + float(second[:4]) * ONE[second[4:]](z, y)
    parts = name.split("-")
    return ONE[parts[SWITCHED[name][step] if len(parts) > 1 else 0]](z, y)


@pytest.mark.parametrize("name", [name for name in LOSSES if "|" not in name])
def test_the_loss_of_every_step(name: str) -> None:
    g = torch.Generator().manual_seed(3)
    z = torch.randn(100, 5, generator=g, dtype=torch.float64) * 3
    y = torch.randint(5, (100,), generator=g)
    for dtype in (torch.float32, torch.float64):
        found = LOSSES[name].loss(z, Goal(y, y, torch.arange(100).to(dtype) / 100))
        wanted = [formula(name, step, z[step], int(y[step])) for step in range(100)]
        assert torch.allclose(found, torch.stack(wanted), atol=1e-6)


def a3(t: int, stages: int) -> float:
    return 0.5 * (1 + math.cos(math.pi * t / 100))


def in_stages(t: int, stages: int) -> float:
    return 1 + math.cos(math.pi * (t * stages % 100) / 100)


def halved(t: int, stages: int) -> float:
    return 2 / 2 ** sum(mark <= t for mark in checkpoints(100)[:-1])


STEPS: dict[str, Callable[[int, int], float]] = {
    "constant": lambda t, stages: 0.25,
    "A3": a3,
    "GAMA": lambda t, stages: 2 / (1 if t < 60 else 10 if t < 85 else 100),
    "MD": in_stages,
    "AutoAttack": halved,
}


@pytest.mark.parametrize("stages", [1, 2, 3])
@pytest.mark.parametrize("name", STEPS)
def test_the_length_of_every_step(name: str, stages: int) -> None:
    length, schedule = STEP_SIZES[name](stages)
    found = length * schedule(torch.arange(100) / 100)
    wanted = [STEPS[name](t, stages) for t in range(100)]
    assert found.tolist() == pytest.approx(wanted, abs=2e-6)
    assert set(STEPS) == set(STEP_SIZES)


# ---- the attack, against a loop over single images


def stepwise(problem: Any, name: str, size: str, eps: float, steps: int = 100) -> Tensor:
    """The last iterate of alternating PGD in Linf."""
    x, labels, stages = problem.x, problem.y.tolist(), len(name.split("-"))
    d = torch.zeros_like(x)
    for step in range(steps):
        at = (x + d).detach().requires_grad_()
        z = problem.model(at)
        loss = sum(formula(name, step, row, y) for row, y in zip(z, labels, strict=True))
        (grad,) = torch.autograd.grad(loss, at)
        d = (d + STEPS[size](step, stages) * eps * grad.sign()).clamp(-eps, eps)
        d = (x + d).clamp(0, 1) - x
    return d


@pytest.mark.parametrize(
    ("name", "size"),
    [("CE-CW", "constant"), ("CE-DLR", "A3"), ("CE-CW-DLR", "MD"), ("CW-CE", "AutoAttack")],
)
def test_a_run_is_the_published_loop(name: str, size: str, make_problem: Any) -> None:
    problem = make_problem(n=3, dtype=torch.float64)
    attack = alternating_pgd(LINF, name, step_size=size)
    found = attack(problem.model, problem.x, problem.y, run=LAST)
    assert torch.allclose(found.value, stepwise(problem, name, size, 0.1), atol=1e-9)
    assert found.spent.tolist() == [[100, 100]] * 3


def test_what_is_found_is_the_worst_point_at_its_price(make_problem: Any) -> None:
    """An image ends at its first misclassified point; the score is the margin, whatever is
    climbed.
    """
    problem = make_problem(n=6, seed=2)
    wide = Threat(Linf(), 0.25)
    found = alternating_pgd(wide)(problem.model, problem.x, problem.y)
    with torch.no_grad():
        z = problem.model(problem.x + found.value)
    assert torch.equal(z.argmax(1) != problem.y, found.lost) and bool(found.lost.any())
    wanted = [float(lead(row, int(y))) for row, y in zip(z, problem.y, strict=True)]
    assert found.score.tolist() == pytest.approx(wanted, abs=1e-4)
    assert bool((found.spent[~found.lost] == torch.tensor([101, 100])).all())
    assert bool((found.spent[found.lost].sum(1) < 201).all())


def test_restarts_need_a_random_start() -> None:
    with pytest.raises(InputError, match="random start"):
        Restarts(alternating_pgd(LINF), 2)
    assert Restarts(alternating_pgd(LINF, start=Corner()), 2).restarts == 2


def test_a_corner_is_eps_away_in_every_coordinate(make_problem: Any) -> None:
    problem = make_problem(n=4, dtype=torch.float64)
    key = keys.mix(0, torch.arange(4))
    ball = LINF.set(problem.model, problem.x)
    d = Corner()(ball, key)
    room = torch.where(d > 0, 1 - problem.x, problem.x).clamp_max(0.1)
    moved = d != 0
    assert torch.allclose(d[moved].abs(), room[moved], atol=1e-12)
    assert bool(((problem.x == 0) | (problem.x == 1))[~moved].all())  # cut to the box
    assert 0.2 < float((d[moved] > 0).double().mean()) < 0.8
    assert torch.equal(Corner()(LINF.set(problem.model, problem.x[2:3]), key[2:3])[0], d[2])
    sphere = Corner()(Threat(L2(), 0.05).set(problem.model, problem.x * 0.5 + 0.25), key)
    assert torch.allclose(sphere.flatten(1).norm(dim=1), torch.full((4,), 0.05).double())


# ---- the baselines


def drawn(n: int, key: int = 0, progress: float = 0.3) -> Goal:
    y = torch.zeros(n).long()
    return Goal(y, y, torch.full((n,), progress), keys.mix(key, torch.arange(n)))


def test_the_coin_is_fair_and_belongs_to_the_example_and_the_step() -> None:
    z = torch.tensor([[0.3, -1.2, 2.0]]).double().expand(2000, 3)
    coin = CoinFlip((CrossEntropy(), DLR()))
    found = coin.loss(z, drawn(2000))
    heads = torch.isclose(found, CrossEntropy().loss(z, drawn(2000)))
    assert bool((heads | torch.isclose(found, DLR().loss(z, drawn(2000)))).all())
    assert abs(int(heads.sum()) - 1000) < 120  # five standard deviations
    later = CrossEntropy().loss(z, drawn(2000)) == coin.loss(z, drawn(2000, progress=0.31))
    assert 0.4 < float((heads == later).double().mean()) < 0.6
    whole = drawn(2000)
    assert whole.key is not None
    part = Goal(*(t[7:9] for t in whole[:3]), whole.key[7:9])
    assert torch.equal(coin.loss(z[7:9], part), found[7:9])


def test_company_does_not_change_the_coin(make_problem: Any) -> None:
    problem = make_problem(n=6, dtype=torch.float64)
    attack = Attack(LINF, LOSSES["CE|DLR"], PGD(8, 0.3, Corner()), restarts=2)
    whole = attack(problem.model, problem.x, problem.y, run=Run(patience=math.inf))
    order = torch.tensor([4, 1, 5])
    run = Run(ids=order, slots=2, patience=math.inf)
    part = attack(problem.model, problem.x[order], problem.y[order], run=run)
    assert torch.allclose(part.value, whole.value[order], atol=1e-9)
    assert torch.equal(part.by, whole.by[order])


def test_at_a_shared_site_one_coin_is_thrown_for_all(make_problem: Any) -> None:
    problem = make_problem(n=5, dtype=torch.float64)
    threat = Threat(Linf(), 0.1, site=Universal())
    attack = Attack(threat, LOSSES["CE|DLR"], PGD(4))
    assert attack(problem.model, problem.x, problem.y).value.shape == (1, 1, 4, 4)


@pytest.mark.parametrize("make", [lambda p: CoinFlip(p), lambda p: Mixture(p, (1.0,) * len(p))])
def test_a_whole_reads_what_its_parts_read(make: Callable[[Any], Objective]) -> None:
    assert make((Margin(), TargetedMargin())).targeted and make((KL(), Margin())).soft
    assert not make((Margin(), DLR())).targeted and not make((Margin(),)).soft
    with pytest.raises(InputError, match="at least one"):
        make(())


def test_what_cannot_be_meant_is_refused() -> None:
    with pytest.raises(InputError, match="one weight each"):
        Mixture((Margin(), DLR()), (1.0,))
    with pytest.raises(InputError, match="random keys"):
        CoinFlip((Margin(),)).loss(torch.zeros(1, 2), Goal(*[torch.zeros(1).long()] * 3))
    with pytest.raises(UnknownName, match="CE-CW"):
        alternating_pgd(LINF, "CE-WC")
    with pytest.raises(UnknownName, match="GAMA"):
        alternating_pgd(LINF, step_size="GAMMA")


@pytest.mark.parametrize(
    "text",
    [
        "Alternating-PGD",
        "alternating_pgd(losses='CE-CW-DLR', step_size='MD')",
        "Alternating-PGD(Alternating((DLR(), Margin()), (0.2, 1.0)), steps=10)",
        "Restarts(Alternating-PGD('CE|DLR', start=Corner()), 3)",
    ],
)
def test_attacks_are_made_from_expressions(text: str) -> None:
    assert isinstance(parse(text, NAMES, threat=LINF), Attack)
