"""Max-margin training: margins against closed forms, losses against the definition, and a memory by
row.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.attack.starts import Uniform, Zero
from torchproof.core.errors import InputError
from torchproof.core.norms import L2, Linf
from torchproof.core.objectives import Goal
from torchproof.core.threats import Threat, Universal
from torchproof.train import MMA, Batch, fit
from torchproof.train.method import drawn, read
from torchproof.train.mma import SoftMargin
from torchproof.train.rows import split

Make = Callable[..., Any]
EPS = 0.1
THREAT = Threat(Linf(), EPS)


def linear(classes: int = 2) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Flatten(), nn.Linear(9, classes)).double()


def batch(n: int = 40) -> Batch:
    g = torch.Generator().manual_seed(5)
    x = 0.3 + 0.4 * torch.rand(n, 1, 3, 3, generator=g, dtype=torch.float64)
    return Batch(x, torch.randint(2, (n,), generator=g), torch.arange(100, 100 + n), 0.5, 7)


def weights(net: nn.Module) -> Tensor:
    return torch.cat([t.flatten().double() for t in net.state_dict().values()])


@pytest.mark.parametrize(("norm", "dual"), [(Linf(), 1), (L2(), 2)])
def test_margins_of_a_linear_network_are_the_closed_form(norm: Any, dual: int) -> None:
    """|z_y - z_k| / |w_y - w_k|, the dual norm, with two classes; up to the bisection's grain."""
    net, b = linear(), batch()
    eps = EPS if dual == 1 else 3 * EPS
    how = MMA(Threat(norm, eps), most=2.0, steps=20, start=Uniform() if dual == 1 else Zero())
    ready = how.prepare(net, b)
    z = net(b.x).detach()
    own, other = z.gather(1, b.y[:, None])[:, 0], z.gather(1, 1 - b.y[:, None])[:, 0]
    w = (net[1].weight[0] - net[1].weight[1]).detach()
    distance = (own - other) / torch.linalg.vector_norm(w, dual)
    right, top = own > other, 1.05 * 2 * eps
    assert 5 < int(right.sum()) < 35 and bool((distance[right] < top).any())
    assert torch.equal(ready.drawn["wrong"] == 0, right)
    assert torch.allclose(
        ready.drawn["margin"][right], distance[right].clamp_max(top), rtol=0, atol=top / 512
    )
    assert bool((ready.drawn["margin"][~right] == 0).all())
    assert torch.equal(ready.adv[~right], b.x[~right])
    near = right & (distance < top)
    moved = net(ready.adv).detach()
    assert float((moved[:, 0] - moved[:, 1])[near].abs().max()) < 0.02 * float(w.abs().sum())


def test_the_soft_margin_is_its_formula() -> None:
    z = torch.randn(5, 4, dtype=torch.float64)
    y = torch.tensor([0, 1, 2, 3, 0])
    got = SoftMargin().loss(z, Goal(y, y, torch.zeros(5)))
    for i in range(5):
        others = sum(float(z[i, j].exp()) for j in range(4) if j != y[i])
        assert float(got[i]) == pytest.approx(math.log(others) - float(z[i, y[i]]))


def test_losses_are_those_of_the_definition() -> None:
    net, b, how = linear(), batch(), MMA(THREAT, steps=5, most=2.0)
    ready = how.prepare(net, b)
    with drawn(ready):
        losses = read(how, net, ready).detach()
    kinds = set()
    for i in range(len(b.x)):
        clean = F.cross_entropy(net(b.x[i : i + 1]), b.y[i : i + 1])
        moved = F.cross_entropy(net(ready.adv[i : i + 1]), b.y[i : i + 1])
        wrong, margin = bool(ready.drawn["wrong"][i]), float(ready.drawn["margin"][i])
        kinds.add((wrong, margin < 2 * EPS))
        second = clean if wrong else (moved if margin < 2 * EPS else 0 * moved)
        expected = (clean / 3 + 2 * second / 3).item()
        assert float(losses[i]) == pytest.approx(expected, abs=1e-12)
    assert kinds == {(True, True), (False, True), (False, False)}


def test_an_image_is_searched_within_its_own_last_margin() -> None:
    net, b, how = linear(), batch(), MMA(THREAT, most=2.0)
    first = how.prepare(net, b)
    assert len(how.margins) == 0
    how.learn(first)
    assert torch.equal(how.margins[b.ids], first.drawn["margin"])
    order = torch.randperm(len(b.x), generator=torch.Generator().manual_seed(0))
    mixed = replace(b, x=b.x[order], y=b.y[order], ids=b.ids[order])
    assert torch.equal(how._known(mixed.ids), first.drawn["margin"][order])
    again = how.prepare(net, mixed)
    right = again.drawn["wrong"] == 0
    moved = again.drawn["margin"] - first.drawn["margin"][order]
    assert float(moved[right].abs().max()) < 0.002  # a linear network's margins stay
    assert first.spent[1] == 10 * int(right.sum()) and first.spent[0] == 40 + 21 * int(right.sum())


def test_the_memory_is_by_row_and_rows_held_out_have_none(
    data: Make, network: Make, settings: Make
) -> None:
    how, chosen = MMA(THREAT, steps=2), settings(batch_size=10)
    (*_, record) = fit(network(), data(), how, chosen)
    train, held = split(*data(), chosen.seed, chosen.held_out)
    assert len(how.margins) == 60 and bool((how.margins[held.index] == 0).all())
    assert int((how.margins[train.index] > 0).sum()) > 10
    kept = how.margins[train.index]
    assert record.figures["wrong"] == pytest.approx(float((kept == 0).double().mean()), abs=1e-6)
    assert record.figures["margin"] == pytest.approx(float(kept.mean()), abs=1e-6)


@pytest.mark.parametrize("stop_after", [2, 3, 4])
def test_stopped_and_resumed_it_is_the_same_run(
    tmp_path: Path, data: Make, network: Make, settings: Make, stop_after: int
) -> None:
    chosen = settings(checkpoint_steps=1)
    whole, whole_net = MMA(THREAT, steps=2), network()
    list(fit(whole_net, data(), whole, chosen))
    steps = iter(range(1000))
    list(fit(network(), data(), MMA(THREAT, steps=2), chosen, out=tmp_path,
             stop=lambda: next(steps) + 1 == stop_after))  # fmt: skip
    again, net = MMA(THREAT, steps=2), network()
    assert list(fit(net, data(), again, chosen, out=tmp_path, resume=True))
    assert torch.equal(weights(net), weights(whole_net))
    assert torch.equal(again.margins, whole.margins)


def test_a_batch_that_is_all_wrong_is_trained_on_as_it_is() -> None:
    net, b, how = linear(), batch(), MMA(THREAT)
    with torch.no_grad():
        wrong = replace(b, y=1 - net(b.x).argmax(1))
    ready = how.prepare(net, wrong)
    assert torch.equal(ready.adv, b.x) and ready.spent == (40, 0)
    expected = F.cross_entropy(copy.deepcopy(net)(b.x), wrong.y, reduction="none")
    assert torch.allclose(how.losses(net, ready), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("build", "word"),
    [
        (lambda: MMA(THREAT, most=0.1, least=0.2), "least"),
        (lambda: MMA(THREAT, clean=1.5), "clean"),
        (lambda: MMA(THREAT, steps=0), "steps"),
        (lambda: MMA(THREAT, bisections=0), "bisections"),
        (lambda: MMA(Threat(Linf(), EPS, Universal())), "images"),
    ],
)
def test_what_cannot_be_meant_is_refused(build: Make, word: str) -> None:
    with pytest.raises(InputError, match=word):
        build()
