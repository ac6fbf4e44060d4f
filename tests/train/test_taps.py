"""TAPS and STAPS: the points, the loss and its gradients, by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchproof.core.errors import InputError
from torchproof.core.norms import Linf
from torchproof.core.threats import Threat
from torchproof.train import IBP, SABR, TAPS, Batch, Ramp, catalogue
from torchproof.train.method import drawn, read

Make = Callable[..., Any]
EPS = 0.05
THREAT = Threat(Linf(), EPS)
OVER, HALF = Ramp(0.0, 0.4), Ramp(0.0, 1.0)
EXACT = {"rtol": 0.0, "atol": 1e-10}


@pytest.fixture(scope="module")
def shared(seeded: Make) -> nn.Module:
    return seeded(
        nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 7), nn.ReLU(),
        nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, 4), bias=0.2,
    )  # fmt: skip


@pytest.fixture
def mlp(shared: nn.Module) -> nn.Module:
    shared.zero_grad()
    return shared


def batch(n: int = 5) -> Batch:
    g = torch.Generator().manual_seed(5)
    x = torch.rand(n, 1, 4, 4, generator=g, dtype=torch.float64)
    return Batch(x, torch.randint(4, (n,), generator=g), torch.arange(n), 0.5, seed=9)


def box(net: nn.Module, x: Tensor, eps: float, layers: int) -> tuple[Tensor, Tensor]:
    """Intervals behind so many layers of ReLUs."""
    low, high = (x - eps).clamp(0, 1).flatten(1), (x + eps).clamp(0, 1).flatten(1)
    for part in net[1 : 2 * layers + 1]:
        if isinstance(part, nn.Linear):
            up, down = part.weight.clamp_min(0).T, part.weight.clamp_max(0).T
            low, high = low @ up + high @ down + part.bias, high @ up + low @ down + part.bias
        else:
            low, high = low.clamp_min(0), high.clamp_min(0)
    return low, high


def points(ready: Batch) -> Tensor:
    (found,) = [v for name, v in ready.drawn.items() if name.startswith("pivot ")]
    return found


def others(y: int) -> list[int]:
    return [t for t in range(4) if t != y]


def reached(net: nn.Module, found: Tensor, y: Tensor, layers: int) -> Tensor:
    """(B, K - 1) the margins at their points, one by one."""
    tail, rows = net[2 * layers + 1 :], []
    for i, label in enumerate(y.tolist()):
        logits = [tail(found[i, j][None])[0] for j in range(3)]
        rows.append(
            torch.stack([z[label] - z[t] for z, t in zip(logits, others(label), strict=True)])
        )
    return torch.stack(rows)


def losses(method: IBP, net: nn.Module) -> Tensor:
    ready = method.prepare(net, batch())
    with drawn(ready):
        return read(method, net, ready)


@pytest.mark.parametrize("depth", [1, 2])
def test_points_stay_in_the_box_and_make_margins_small(mlp: nn.Module, depth: int) -> None:
    b = batch()
    found = points(TAPS(THREAT, OVER, depth=depth, steps=5, length=40.0).prepare(mlp, b))
    low, high = (end.detach()[:, None] for end in box(mlp, b.x, EPS, depth))
    assert found.shape == (5, 3, *low.shape[2:])
    assert bool((found >= low - 1e-12).all()) and bool((found <= high + 1e-12).all())
    few = points(TAPS(THREAT, OVER, depth=depth, steps=1, length=1e-9).prepare(mlp, b))
    with torch.no_grad():
        after, before = (reached(mlp, p, b.y, depth) for p in (found, few))
    assert bool((after <= before + 1e-6).all()) and bool((after < before).any())


def test_the_loss_is_a_product_and_no_larger_than_that_of_ibp(mlp: nn.Module) -> None:
    b, method = batch(), TAPS(THREAT, OVER, steps=3)
    bound = losses(IBP(THREAT, OVER, kappa=(0, 0)), mlp)
    found = losses(method, mlp)
    at = reached(mlp, points(method.prepare(mlp, b)), b.y, 2)
    attacked = torch.log1p((-at).exp().sum(1))
    assert torch.allclose(found, attacked * bound, **EXACT)
    assert bool((attacked <= bound + 1e-12).all())  # points of the box against bounds over it


def test_gradients_reach_the_ends_of_the_box_through_the_link(mlp: nn.Module) -> None:
    b, link, scale = batch(), 0.3, 2.5
    method = TAPS(THREAT, OVER, steps=3, link=link, scale=scale)
    ready = method.prepare(mlp, b)
    with drawn(ready):
        read(method, mlp, ready).sum().backward()
    got = [p.grad.clone() for p in mlp.parameters()]
    mlp.zero_grad()
    bound = losses(IBP(THREAT, OVER, kappa=(0, 0)), mlp)
    low, high = box(mlp, b.x, EPS, 2)
    at = points(ready).requires_grad_()
    attacked = torch.log1p((-reached(mlp, at, b.y, 2)).exp().sum(1))
    # the tail's own gradients, and d loss / d point
    (scale * attacked * bound.detach() + attacked.detach() * bound).sum().backward()
    for i in range(len(b.x)):
        for j in range(3):
            for k in range(low.shape[1]):
                width = float(high[i, k].detach() - low[i, k].detach())
                if width == 0:
                    share = (1.0, 1.0)
                else:
                    where = float((at[i, j, k].detach() - low[i, k].detach()) / width)
                    share = (max(0, 1 - where / link), max(0, 1 - (1 - where) / link))
                grad = float(at.grad[i, j, k])
                if grad:
                    ends = share[0] * low[i, k] + share[1] * high[i, k]
                    (grad * ends).backward(retain_graph=True)
    for p, g in zip(mlp.parameters(), got, strict=True):
        assert torch.allclose(p.grad, g, rtol=1e-8, atol=1e-10)


def test_up_to_the_end_of_the_ramp_it_is_sabr(mlp: nn.Module) -> None:
    for lam in (0.4, 1.0):
        taps, sabr = TAPS(THREAT, HALF, lam=lam, steps=2), SABR(THREAT, HALF, lam=lam, steps=2)
        assert torch.equal(losses(taps, mlp), losses(sabr, mlp))
        assert torch.equal(taps.prepare(mlp, batch()).x, batch().x)


def test_staps_searches_in_the_small_box(mlp: nn.Module) -> None:
    b = batch()
    ready = TAPS(THREAT, OVER, lam=0.4, steps=3).prepare(mlp, b)
    assert ready.adv is not None
    low, high = (end.detach()[:, None] for end in box(mlp, ready.adv, 0.4 * EPS, 2))
    found = points(ready)
    assert bool((found >= low - 1e-12).all()) and bool((found <= high + 1e-12).all())


def test_points_are_keyed_by_seed_and_ids(mlp: nn.Module) -> None:
    method, b = TAPS(THREAT, OVER, steps=2), batch()
    whole = points(method.prepare(mlp, b))
    part = method.prepare(mlp, Batch(b.x[1:], b.y[1:], b.ids[1:], b.progress, b.seed))
    assert torch.allclose(points(part), whole[1:], **EXACT)
    assert not torch.allclose(points(method.prepare(mlp, replace(b, seed=4))), whole)
    ready = method.prepare(mlp, b)
    pieces = torch.cat([method.losses(mlp, piece) for piece in ready.split(2)])
    assert torch.allclose(pieces, method.losses(mlp, ready), **EXACT)


@pytest.mark.parametrize("given", [{"link": 0}, {"link": 1.5}, {"scale": 0}, {"depth": 0}])
def test_settings_that_cannot_be_meant(given: dict[str, object]) -> None:
    with pytest.raises(InputError):
        TAPS(THREAT, **given)


def test_it_is_named_in_expressions() -> None:
    made = catalogue.method("TAPS(ramp=Ramp(0, 0.4), lam=0.6, depth=2, scale=5)", THREAT)
    assert made == TAPS(THREAT, OVER, lam=0.6, depth=2, scale=5)
