"""FAB: distances on linear models, and the projection on a plane and a box against scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize
from torch import Tensor, nn

from torchproof.attack.combine import Attack, EveryTarget
from torchproof.attack.fab import FAB, to_plane
from torchproof.core.norms import L1, L2, Linf, Norm
from torchproof.core.objectives import (
    TargetedMargin,
)
from torchproof.core.threats import Threat


def linear(weight: Tensor, bias: Tensor | None = None) -> nn.Module:
    """Logits W x + b of the flattened image."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None).to(weight.dtype)
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(bias)
    return nn.Sequential(nn.Flatten(), layer)


# ---- FAB


def three(seed: int) -> tuple[nn.Module, Tensor, Tensor, Tensor, Tensor]:
    """A linear model of three classes, images, labels, weights and clean logits."""
    g = torch.Generator().manual_seed(seed)
    weight = torch.randn(3, 12, generator=g, dtype=torch.float64)
    model = linear(weight)
    x = 0.45 + 0.1 * torch.rand(6, 1, 1, 12, generator=g, dtype=torch.float64)
    z = model(x).detach()
    return model, x, z.argmax(1), weight, z


@pytest.mark.parametrize(("norm", "dual"), [(Linf(), 1), (L2(), 2), (L1(), math.inf)])
@pytest.mark.parametrize("seed", [0, 1])
def test_fab_reaches_the_boundary_at_its_distance(norm: Norm, dual: float, seed: int) -> None:
    """No box: lost at 1.02 of the smallest |margin| / |w_t - w_y|_q, not at 0.99."""
    model, x, y, weight, z = three(seed)
    for i in range(3):
        others = [k for k in range(3) if k != int(y[i])]
        ways = [weight[k] - weight[int(y[i])] for k in others]
        gaps = [float(z[i, int(y[i])] - z[i, k]) for k in others]
        distance = min(
            m / float(torch.linalg.vector_norm(w, dual)) for m, w in zip(gaps, ways, strict=True)
        )
        for factor, lost in ((1.02, True), (0.99, False)):
            threat = Threat(norm, factor * distance, low=-50.0, high=50.0)
            attack = EveryTarget(Attack(threat, TargetedMargin(), FAB(20)))
            assert bool(attack(model, x[i : i + 1], y[i : i + 1]).lost) is lost


@pytest.mark.parametrize("norm", [Linf(), L2(), L1()], ids=["linf", "l2", "l1"])
def test_fab_needs_no_box_and_minds_no_dead_pixel(norm: Norm) -> None:
    """Pixels that the model does not read have no gradient and, here, no bound either."""
    _, x, y, weight, _ = three(3)
    weight[:, :3] = 0
    model = linear(weight)
    y = model(x).argmax(1)
    for low, high in ((-50.0, 50.0), (-math.inf, math.inf)):
        threat = Threat(norm, 5.0, low=low, high=high)
        found = EveryTarget(Attack(threat, TargetedMargin(), FAB(10)))(model, x, y)
        assert bool(found.lost.all()) and bool(found.value.isfinite().all())


@pytest.mark.parametrize("norm", [Linf(), L2(), L1()], ids=["linf", "l2", "l1"])
@pytest.mark.parametrize("seed", range(12))
def test_the_move_to_a_plane_in_a_box_is_the_shortest(norm: Norm, seed: int) -> None:
    """Against scipy on six pixels, some of them saturated, some that the plane ignores."""
    rng = np.random.default_rng(seed)
    x = rng.choice([0.0, 1.0, 0.5, 0.2], size=6)
    w = rng.normal(size=6) * rng.choice([0.0, 1.0], p=[0.2, 0.8], size=6)
    d, low, high = rng.uniform(-x, 1 - x) * 0.5, -x, 1 - x
    reach = (np.where(w > 0, high, low) @ w, np.where(w > 0, low, high) @ w)
    b = rng.uniform(min(reach), max(reach))
    given = [torch.tensor(v[None]) for v in (d, w)]
    move = to_plane(
        norm,
        *given,
        torch.tensor([b], dtype=torch.float64),
        *(torch.tensor(v[None]) for v in (low, high)),
    )[0].numpy()
    assert (d + move) @ w == pytest.approx(b, abs=1e-9)
    assert ((d + move) >= low - 1e-12).all() and ((d + move) <= high + 1e-12).all()
    bounds = list(zip(low - d, high - d, strict=True))
    if isinstance(norm, L2):
        plane = {"type": "eq", "fun": lambda e: w @ (d + e) - b, "jac": lambda e: w}
        options = {"ftol": 1e-14, "maxiter": 500}
        best = minimize(
            lambda e: e @ e,
            move * 0,
            jac=lambda e: 2 * e,
            bounds=bounds,
            constraints=[plane],
            method="SLSQP",
            options=options,
        )
        assert np.linalg.norm(move) == pytest.approx(math.sqrt(best.fun), abs=1e-5)
    elif isinstance(norm, L1):
        # e = up - down, both >= 0
        reach = np.concatenate([high - d, d - low])
        best = linprog(
            np.ones(12),
            A_eq=np.concatenate([w, -w])[None],
            b_eq=[b - w @ d],
            bounds=[(0, r) for r in reach],
        )
        assert np.abs(move).sum() == pytest.approx(best.fun, abs=1e-7)
    else:
        cost, eye = np.append(np.zeros(6), 1.0), np.eye(6)
        sides = np.vstack([np.hstack([eye, -np.ones((6, 1))]), np.hstack([-eye, -np.ones((6, 1))])])
        best = linprog(
            cost,
            A_ub=sides,
            b_ub=np.zeros(12),
            A_eq=np.append(w, 0.0)[None],
            b_eq=[b - w @ d],
            bounds=[*bounds, (0, None)],
        )
        assert np.abs(move).max() == pytest.approx(best.fun, abs=1e-7)


@pytest.mark.parametrize("norm", [Linf(), L2(), L1()], ids=["linf", "l2", "l1"])
def test_a_plane_out_of_reach_gives_the_nearest_corner(norm: Norm) -> None:
    w, box = torch.tensor([[1.0, -2.0, 0.0]]).double(), torch.ones(1, 3).double()
    move = to_plane(norm, 0.1 * box, w, torch.tensor([50.0]).double(), -box, box)
    assert torch.allclose((0.1 * box + move)[:, :2], torch.tensor([[1.0, -1.0]]).double())


def by_greed(w: Tensor, gap: float, room: Tensor) -> Tensor:
    """Sizes of the L1 move, one coordinate after the other."""
    size = torch.zeros_like(w)
    for i in w.abs().argsort(descending=True).tolist():
        part = min(float(room[i]), gap / float(w[i].abs()))
        size[i], gap = part, gap - part * float(w[i].abs())
    return size


@pytest.mark.parametrize("share", [0.001, 0.2, 0.7, 0.999])
def test_the_l1_move_spends_on_the_steepest_coordinates_first(share: float) -> None:
    """A thousand coordinates, of which a few, many or nearly all are needed."""
    g = torch.Generator().manual_seed(7)
    w = torch.randn(3, 1000, generator=g, dtype=torch.float64)
    x = torch.rand(3, 1000, generator=g, dtype=torch.float64)
    for sign in (1.0, -1.0):
        room = torch.where(w * sign > 0, 1 - x, x)
        gap = share * (w.abs() * room).sum(1)
        move = to_plane(L1(), torch.zeros_like(x), w, sign * gap, -x, 1 - x)
        for i in range(3):
            expected = by_greed(w[i], float(gap[i]), room[i]) * w[i].sign() * sign
            assert torch.allclose(move[i], expected, atol=1e-9)


def test_no_gap_means_no_l1_move() -> None:
    d, w = torch.full((1, 4), 0.25), torch.tensor([[1.0, -2.0, 0.0, 3.0]])
    box = torch.ones(1, 4)
    assert float(to_plane(L1(), d, w, (w * d).sum(1), -box, box).abs().max()) < 1e-30
    assert not bool(to_plane(L1(), d, 0 * w, torch.ones(1), -box, box).any())


def test_fab_on_a_saturated_image_in_the_box() -> None:
    """The nearest adversarial image of the box, found by linear programming: lost just beyond, not
    before.
    """
    g = torch.Generator().manual_seed(5)
    w = torch.randn(6, generator=g, dtype=torch.float64)
    x = torch.tensor([0.0, 1.0, 1.0, 0.0, 0.5, 0.9]).double()
    gap = 0.4 * float(torch.where(w > 0, w * (1 - x), -w * x).sum())
    model = linear(
        torch.stack([torch.zeros(6).double(), w]), torch.tensor([gap + float(w @ x), 0.0]).double()
    )
    low, high = (-x).numpy(), (1 - x).numpy()
    sides = np.vstack(
        [np.hstack([np.eye(6), -np.ones((6, 1))]), np.hstack([-np.eye(6), -np.ones((6, 1))])]
    )
    best = linprog(
        np.append(np.zeros(6), 1.0),
        A_ub=sides,
        b_ub=np.zeros(12),
        A_eq=np.append(w.numpy(), 0.0)[None],
        b_eq=[gap],
        bounds=[*zip(low, high, strict=True), (0, None)],
    )
    image, label = x.reshape(1, 1, 1, 6), torch.zeros(1).long()
    for factor, lost in ((1.02, True), (0.99, False)):
        threat = Threat(Linf(), factor * float(best.fun))
        attack = EveryTarget(Attack(threat, TargetedMargin(), FAB(20)))
        assert bool(attack(model, image, label).lost) is lost
