"""Friendly adversarial training against a masked loop, and its identities."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.attack.run import Run
from torchproof.attack.starts import Zero
from torchproof.core import keys
from torchproof.core.errors import InputError, UnknownName
from torchproof.core.norms import Linf
from torchproof.core.objectives import Classification, Goal
from torchproof.core.threats import Threat
from torchproof.train import (
    AT,
    AWP,
    FAT,
    IAT,
    MART,
    THRM,
    TRADES,
    Batch,
    GradAlign,
    Standard,
    Sum,
    fit,
    method,
)
from torchproof.train.friendly import TAUS
from torchproof.train.inner import Adversarial
from torchproof.train.method import read

Make = Callable[..., Any]
EPS, STEPS = 0.15, 6
THREAT = Threat(Linf(), EPS)


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        net = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Softplus(),
            nn.Flatten(), nn.Linear(144, 3),
        )  # fmt: skip
        return net.double().train()


def batch(n: int = 40, progress: float = 0.5) -> Batch:
    g = torch.Generator().manual_seed(5)
    x = torch.rand(n, 1, 6, 6, generator=g, dtype=torch.float64)
    y = torch.randint(3, (n,), generator=g)
    with torch.no_grad():  # most labels are the network's own, so that searches have a way to go
        own = network().eval()(x).argmax(1)
    y = torch.where(torch.arange(n) % 4 > 0, own, y)
    return Batch(x, y, torch.arange(10, 10 + n), progress=progress, seed=77)


def first(b: Batch, inner: Adversarial) -> Tensor:
    """The keyed first perturbation: uniform in the ball for AT, small normal noise for others."""
    key = keys.mix(b.seed, b.ids, torch.full_like(b.ids, -1), torch.zeros_like(b.ids))
    shape = tuple(b.x.shape[1:])
    if type(inner) is AT:
        d = (keys.uniform(key, 0, shape, 0, torch.float64) * 2 - 1) * EPS
    else:
        d = keys.normal(key, 0, shape, 0, torch.float64) * 0.001
    return (b.x + d.clamp(-EPS, EPS)).clamp(0, 1)


def masked(net: nn.Module, b: Batch, inner: Adversarial, tau: float) -> tuple[Tensor, Tensor]:
    """Early-stopped PGD as a loop over all rows with a mask; the images, and the iterate each was
    taken at.
    """
    net = copy.deepcopy(net).eval()
    p = net(b.x).softmax(1).detach()
    adv, left = first(b, inner), torch.full((len(b.x),), float(tau))
    active, at = torch.ones(len(b.x), dtype=torch.bool), torch.full((len(b.x),), STEPS)
    key = keys.mix(b.seed, b.ids, torch.full_like(b.ids, -1), torch.zeros_like(b.ids))
    for k in range(STEPS):
        adv = adv.detach().requires_grad_()
        z = net(adv)
        wrong = z.argmax(1) != b.y
        at = torch.where(active & wrong & (left == 0), k, at)
        active = active & ~(wrong & (left == 0))
        left = left - wrong.float()
        if isinstance(inner, TRADES):
            loss = (p * (p.log() - z.log_softmax(1))).sum()
        else:
            loss = F.cross_entropy(z, b.y, reduction="sum")
        (g,) = torch.autograd.grad(loss, adv)
        moved = adv.detach() + inner.length * EPS * g.sign()
        if inner.noise:
            own = keys.mix(key, "noise", k)
            moved = moved + inner.noise * keys.normal(own, 0, (1, 6, 6), 0, torch.float64)
        moved = torch.min(torch.max(moved, b.x - EPS), b.x + EPS).clamp(0, 1)
        adv = torch.where(active[:, None, None, None], moved, adv.detach())
    return adv.detach(), at


@pytest.mark.parametrize("tau", [0, 1, 2, STEPS - 1])
@pytest.mark.parametrize(
    "inner",
    [
        AT(THREAT, steps=STEPS),
        AT(THREAT, steps=STEPS, noise=0.03),
        TRADES(THREAT, steps=STEPS),
        MART(THREAT, steps=STEPS),
    ],
    ids=["AT", "noisy AT", "TRADES", "MART"],
)
def test_the_search_equals_a_masked_loop(inner: Adversarial, tau: int) -> None:
    net, b = network(), batch()
    ready = FAT(inner, tau=tau).prepare(net, b)
    adv, at = masked(net, b, inner, tau)
    assert torch.allclose(ready.adv, adv, rtol=0, atol=1e-12)
    assert int((at < STEPS).sum()) > 3
    with torch.no_grad():
        wrong = copy.deepcopy(net).eval()(ready.adv).argmax(1) != b.y
    assert bool(wrong[at < STEPS].all())  # whoever left early is misclassified
    steps = (at + 1).clamp_max(STEPS).float().mean()
    assert torch.allclose(ready.noted["friendly_steps"], steps.expand(len(b.x)))
    assert ready.noted["tau"].tolist() == [tau] * len(b.x)
    assert float((ready.adv - b.x).abs().max()) <= EPS + 1e-12


@pytest.mark.parametrize("tau", [STEPS, math.inf])
@pytest.mark.parametrize("kind", [AT, TRADES, MART, IAT])
def test_tau_of_all_steps_is_the_inner_method(kind: Any, tau: float) -> None:
    net, b, inner = network(), batch(), kind(THREAT, steps=STEPS)
    friendly, plain = FAT(inner, tau=tau).prepare(net, b), inner.prepare(net, b)
    assert torch.equal(friendly.adv, plain.adv) and friendly.spent == plain.spent
    assert torch.equal(
        read(FAT(inner, tau=tau), copy.deepcopy(net), friendly),
        read(inner, copy.deepcopy(net), plain),
    )


def test_a_run_with_tau_of_all_steps_is_the_inner_run(
    network: Make, data: Make, settings: Make
) -> None:
    nets = []
    for how in (AT(THREAT, steps=3), FAT(AT(THREAT, steps=3), tau=3)):
        net = network()
        (*_, record) = fit(net, data(), how, settings())
        nets.append(torch.cat([t.flatten().double() for t in net.state_dict().values()]))
    assert torch.equal(*nets)
    assert record.figures == {"friendly_steps": 3.0, "tau": 3.0}


def test_images_that_start_wrong_are_taken_as_they_are() -> None:
    net, b = network(), batch()
    ready = FAT(AT(THREAT, steps=STEPS, start=Zero()), tau=0).prepare(net, b)
    with torch.no_grad():
        wrong = copy.deepcopy(net).eval()(b.x).argmax(1) != b.y
    assert 0 < int(wrong.sum()) < len(b.x)
    assert torch.equal(ready.adv[wrong], b.x[wrong])
    assert bool((ready.adv[~wrong] != b.x[~wrong]).flatten(1).any(1).all())


class Scripted(Classification):
    """Wins at the iterates of a script, whatever the model answers."""

    def __init__(self, script: list[bool]) -> None:
        self.script, self.asked = script, 0

    def loss(self, out: Tensor, goal: Goal) -> Tensor:
        return out.sum(1)

    def won(self, out: Tensor, goal: Goal) -> Tensor:
        self.asked += 1
        return torch.tensor([self.script[self.asked - 1]])


def test_a_right_answer_takes_back_no_wrong_one() -> None:
    """Wrong, right, wrong: with tau = 1 the third iterate is taken."""
    inner = AT(THREAT, steps=5)
    scripted = Scripted([True, False, True, False, False])
    run = Run(slots=1, patience=1, last=True)
    b = batch(1)
    found = replace(inner.attack, objective=scripted)(network(), b.x, b.y, run=run)
    assert scripted.asked == 3 and found.spent.tolist() == [[3, 3]]


def test_more_patience_costs_more_and_hurts_more() -> None:
    net, b = network(), batch()
    steps, losses = [], []
    for tau in (0, 1, 2, math.inf):
        ready = FAT(AT(THREAT, steps=STEPS), tau=tau).prepare(net, b)
        steps.append(float(ready.noted["friendly_steps"][0]))
        with torch.no_grad():
            losses.append(F.cross_entropy(copy.deepcopy(net).eval()(ready.adv), b.y))
    assert steps == sorted(set(steps)) and steps[-1] == STEPS
    assert losses == sorted(losses)


def test_schedules_follow_the_progress() -> None:
    inner = AT(THREAT, steps=2)
    chosen = FAT(inner, tau=((0.25, 0), (0.5, 2), (1, math.inf)))
    assert [chosen.due(p) for p in (0, 0.2, 0.25, 0.49, 0.5, 0.99)] == [0, 0, 2, 2, *[math.inf] * 2]
    assert FAT(inner).schedule == TAUS["AT"]
    assert FAT(TRADES(THREAT)).schedule == FAT(inner, tau="TRADES").schedule == TAUS["TRADES"]
    assert FAT(IAT(THREAT)).schedule == TAUS["AT"]
    # the authors count epochs from one: up to 50 of 120 tau is 0, up to 90 it is 1, then 2
    assert [FAT(inner).due((e - 0.5) / 120) for e in (1, 50, 51, 90, 91, 120)] == [0, 0, 1, 1, 2, 2]
    mart = FAT(MART(THREAT))
    assert [mart.due((e - 0.5) / 90) for e in (20, 21, 41, 61, 80, 81)] == [0, 1, 2, 3, 3, 4]
    trades = FAT(TRADES(THREAT))
    assert [trades.due((e - 0.5) / 85) for e in (30, 31, 51, 70, 71)] == [0, 1, 2, 2, 3]
    net, early, late = network(), batch(progress=0.1), batch(progress=0.9)
    assert torch.equal(chosen.prepare(net, early).adv, FAT(inner, tau=0).prepare(net, early).adv)
    assert torch.equal(chosen.prepare(net, late).adv, inner.prepare(net, late).adv)


def test_expressions_say_what_they_mean() -> None:
    made = method("AWP(FAT(TRADES(beta=6), tau=1))", THREAT)
    assert isinstance(made, AWP) and made.method == FAT(TRADES(THREAT, beta=6), tau=1)
    pairs = method("FAT(AT(steps=4, noise=0.001), tau=((0.5, 0), (1, 2)))", THREAT)
    assert pairs == FAT(AT(THREAT, steps=4, noise=0.001), tau=((0.5, 0), (1, 2)))


def test_a_sum_inside_is_friendly_too() -> None:
    net, b = network(), batch()
    inner = AT(THREAT, steps=3)
    ready = FAT(Sum(inner, Standard()), tau=0).prepare(net, b)
    assert torch.equal(ready.parts[0].adv, FAT(inner, tau=0).prepare(net, b).adv)


def test_steps_are_those_of_the_attack_alone() -> None:
    """Not the pass of a weight perturbation, nor the gradients of a term beside it."""
    net, b, inner = network(), batch(), AT(THREAT, steps=3)
    alone = FAT(inner, tau=0).prepare(net, b).noted["friendly_steps"]
    assert 1 < float(alone[0]) < 3
    for how in (AWP(inner), Sum(inner, GradAlign(THREAT)), AWP(Sum(Standard(), inner))):
        ready = FAT(how, tau=0).prepare(net, b)
        assert torch.equal(ready.noted["friendly_steps"], alone)
        assert ready.spent[1] > float(alone.sum()) + 1
    both = FAT(Sum(inner, inner), tau=0).prepare(net, b)
    assert torch.equal(both.noted["friendly_steps"], 2 * alone)


@pytest.mark.parametrize(
    ("build", "error", "word"),
    [
        (lambda: FAT(Standard()), InputError, "inner attack"),
        (lambda: FAT(FAT(AT(THREAT), tau=1), tau=1), InputError, "one tau"),
        (lambda: FAT(THRM(THREAT), tau=1), InputError, "right"),
        (lambda: FAT(Sum(AT(THREAT), THRM(THREAT)), tau=1), InputError, "right"),
        (lambda: FAT(AT(THREAT), tau=-1), InputError, "tau"),
        (lambda: FAT(AT(THREAT), tau=math.nan), InputError, "tau"),
        (lambda: FAT(AT(THREAT), tau=((0.5, 0),)), InputError, "share"),
        (lambda: FAT(AT(THREAT), tau=((0.7, 0), (0.5, 1), (1, 2))), InputError, "share"),
        (lambda: FAT(AT(THREAT), tau=()), InputError, "share"),
        (lambda: FAT(AT(THREAT), tau=None), InputError, "tau"),
        (lambda: FAT(AT(THREAT), tau="TRADE"), UnknownName, "TRADES"),
        (lambda: AT(THREAT, noise=-0.1), InputError, "noise"),
    ],
)
def test_what_cannot_be_meant_is_refused(build: Make, error: Any, word: str) -> None:
    with pytest.raises(error, match=word):
        build()
