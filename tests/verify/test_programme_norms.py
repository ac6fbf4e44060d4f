"""Programmes over balls of every norm: closed forms, all patterns, no point below."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import brentq, linprog
from torch import Tensor, nn

from torchproof.core.errors import InputError
from torchproof.core.norms import L0, L1, L2, Linf, Norm
from torchproof.core.threats import Threat
from torchproof.verify import graph_of, margins
from torchproof.verify.graph import Graph
from torchproof.verify.inputs import InputSet
from torchproof.verify.lp import lp_margins
from torchproof.verify.milp import milp_margins, milp_verify
from torchproof.verify.programme import Clock, Draft, least
from torchproof.verify.programme.example import Example, prepared
from torchproof.verify.programme.sets import inputs

SLACK = 1e-4  # more than the solver's tolerances take off a bound of these networks
RADII: dict[str, tuple[Norm, float]] = {
    "linf": (Linf(), 0.2), "l2": (L2(), 0.3), "l1": (L1(), 0.5), "l0": (L0(), 2.0),
}  # fmt: skip


@functools.cache
def net_of(seed: int, inputs: int, *widths: int) -> tuple[nn.Sequential, Tensor, Tensor]:
    torch.manual_seed(seed)
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in itertools.pairwise((inputs, *widths)):
        layers += [nn.Linear(before, after), nn.ReLU()]
    last = nn.Linear(widths[-1] if widths else inputs, 3)
    net = nn.Sequential(*layers, last).double().eval().requires_grad_(False)
    for p in net.parameters():
        p.mul_(2)
    x = torch.rand(1, 1, 1, inputs, dtype=torch.float64)
    return net, x, net(x).argmax(1)


@functools.cache
def traced(*shape: int) -> Graph:
    """The graph of `net_of(*shape)`."""
    net, x, _ = net_of(*shape)
    return graph_of(net, x)


def in_l2(c: np.ndarray, eps: float, low: np.ndarray, high: np.ndarray) -> float:
    """min <c, d> over |d| <= eps in a box: d = clip(-t c), the t from its length."""

    def length(t: float) -> float:
        return float(np.linalg.norm(np.clip(-t * c, low, high)))

    t = 1e9 if length(1e9) <= eps else brentq(lambda t: length(t) - eps, 0, 1e9, xtol=1e-15)
    return float(c @ np.clip(-t * c, low, high))


def in_l0(c: np.ndarray, k: float, low: np.ndarray, high: np.ndarray) -> float:
    return float(np.sort(np.minimum(c * low, c * high))[: int(k)].sum())


def in_l1(c: np.ndarray, eps: float, low: np.ndarray, high: np.ndarray) -> float:
    """Spends the radius on the steepest entries first."""
    total, room = 0.0, np.where(c > 0, -low, high)
    for i in np.argsort(-np.abs(c)):
        step = min(eps, room[i])
        total, eps = total - abs(c[i]) * step, eps - step
    return total


CLOSED = {"l2": in_l2, "l0": in_l0, "l1": in_l1}


@pytest.mark.parametrize("norm", sorted(CLOSED))
def test_linear_models_against_closed_forms(norm: str) -> None:
    """By the programme alone, without the propagated bounds; with integers the same."""
    net, x, y = net_of(0, 12)
    about = Threat(*RADII[norm])
    inside = InputSet.of(x, about)
    low, high = (e.flatten().numpy() for e in (inside.ball.low, inside.ball.high))
    weight, rest = net[1].weight.numpy(), [t for t in range(3) if t != int(y)]
    clean = (net(x)[:, y] - net(x)[:, rest])[0].numpy()
    expected = clean + [
        CLOSED[norm](weight[int(y)] - weight[t], about.eps, low, high) for t in rest
    ]
    example = Example.of(prepared(traced(0, 12), x), inside, y, "ibp", Clock())
    alone = [example.relaxed.least(t, least, np.inf).bound for t in range(2)]
    assert np.allclose(alone, expected, atol=1e-6)
    found = milp_margins(traced(0, 12), x, y, about).lower[0].numpy()
    assert (found <= expected + 1e-9).all() and np.allclose(found, expected, atol=SLACK)


def test_tangents_leave_the_whole_ball_and_close_in_on_it() -> None:
    """A thousand points of the ball keep every row; in random directions the optimum comes within
    1e-3 of the ball's, and what multipliers prove with the ball itself within 1e-6.
    """
    _, x, _ = net_of(0, 6)
    inside, draft = InputSet.of(x, Threat(L2(), 0.4)), Draft()
    form, tangents = inputs(draft, inside)
    assert tangents is not None
    low, high = (e.flatten().numpy() for e in (inside.ball.low, inside.ball.high))
    for c in np.random.default_rng(0).normal(size=(8, 6)):
        wide = np.zeros(draft.count)
        wide[form.which] = c
        for _ in range(12):
            found = least(draft.done(), wide)
            assert found.point is not None and found.multipliers is not None
            if not tangents(found.point):
                break
        best = in_l2(c, 0.4, low, high)
        assert best - 1e-3 <= found.bound <= best + 1e-9
        assert best - 1e-6 <= tangents.bound(wide, found.multipliers).bound <= best + 1e-9
    noise = torch.randn(1000, 1, 1, 6, dtype=x.dtype, generator=torch.manual_seed(0))
    points = InputSet.of(x.expand(1000, -1, -1, -1), Threat(L2(), 0.4)).ball.project(noise)
    v = np.zeros((1000, draft.count))
    v[:, form.which] = points.flatten(1).numpy()
    v[:, tangents.squares.which] = points.flatten(1).numpy() ** 2
    programme = draft.done()
    assert (programme.matrix @ v.T <= programme.most[:, None] + 1e-12).all()


def test_l2_against_a_grid_of_the_disc() -> None:
    """With integers and tangents, of two inputs: every direction and length."""
    net, _, _ = net_of(3, 2, 6, 4)
    x = torch.full((1, 1, 1, 2), 0.45, dtype=torch.float64)
    y, about = net(x).argmax(1), Threat(L2(), 0.5)
    turn, length = np.linspace(0, 2 * np.pi, 2001), np.linspace(0, 0.5, 201)
    disc = length[:, None, None] * np.stack([np.cos(turn), np.sin(turn)], 1)
    points = (x.flatten() + torch.from_numpy(disc).view(-1, 2)).clamp(0, 1).view(-1, 1, 1, 2)
    z, rest = net(points), [t for t in range(3) if t != int(y)]
    grid = (z[:, y] - z[:, rest]).amin(0)
    found = milp_margins(net, x, y, about).lower[0]
    assert bool((found <= grid + 1e-9).all()) and torch.allclose(found, grid, atol=5e-3)


def test_l0_against_all_supports_and_patterns() -> None:
    net, x, y = net_of(2, 4, 4)
    about, rest, best = Threat(L0(), 2.0), [t for t in range(3) if t != int(y)], np.full(2, np.inf)
    (w1, b1), (w2, b2) = ((m.weight.numpy(), m.bias.numpy()) for m in (net[1], net[3]))
    clean = x.flatten().numpy()
    for support in itertools.combinations(range(4), 2):
        ends = [(0.0, 1.0) if i in support else (clean[i], clean[i]) for i in range(4)]
        for pattern in itertools.product((0.0, 1.0), repeat=4):
            on = np.array(pattern)
            sign = np.where(on == 1, -1.0, 1.0)
            for place, t in enumerate(rest):
                row = (w2[int(y)] - w2[t]) * on
                one = linprog(row @ w1, sign[:, None] * w1, -sign * b1, bounds=ends)
                if one.status == 0:
                    at = row @ b1 + b2[int(y)] - b2[t]
                    best[place] = min(best[place], one.fun + at)
    found = milp_margins(traced(2, 4, 4), x, y, about).lower[0].numpy()
    assert (found <= best + 1e-9).all() and np.allclose(found, best, atol=SLACK)
    assert (lp_margins(traced(2, 4, 4), x, y, about).lower[0].numpy() <= found + SLACK).all()


@pytest.mark.parametrize("norm", ["l2", "l1", "l0"])
def test_in_order_within_the_box_and_no_point_below(norm: str) -> None:
    """Linf box <= LP of the norm, propagated <= LP <= LP-full <= integers <= 10 000 points."""
    net, x, y = net_of(5, 5, 6, 5)
    kind, eps = RADII[norm]
    about, graph = Threat(kind, eps), traced(5, 5, 6, 5)
    box = lp_margins(graph, x, y, Threat(Linf(), min(eps, 1.0))).lower
    order = [margins(graph, x, y, about), lp_margins(graph, x, y, about).lower]
    order.append(lp_margins(graph, x, y, about, middle="lp").lower)
    order.append(milp_margins(graph, x, y, about, time_limit=5).lower)
    assert bool((box <= order[1] + 1e-9).all()) and float((order[1] - box).sum()) > SLACK
    for lower, upper in itertools.pairwise(order):
        assert bool((lower <= upper + SLACK).all())
    assert float((order[3] - order[0]).sum()) > SLACK
    ball = InputSet.of(x.expand(5000, -1, -1, -1), about).ball
    noise = torch.randn(5000, *x.shape[1:], dtype=x.dtype, generator=torch.manual_seed(0))
    z = torch.cat([net(x + d) for d in (ball.maximiser(noise), ball.project(noise * eps))])
    rest = [t for t in range(3) if t != int(y)]
    assert all(bool((b <= (z[:, y] - z[:, rest]).amin(0) + 1e-9).all()) for b in order)


def test_bounds_that_integers_begin_with_do_not_change_what_they_find() -> None:
    _, x, y = net_of(5, 5, 6, 5)
    graph, about = traced(5, 5, 6, 5), Threat(Linf(), 0.2)
    usual = milp_margins(graph, x, y, about).lower
    for middle in ("ibp", "crown", "alpha-crown", "alpha-crown-full"):
        other = milp_margins(graph, x, y, about, middle=middle).lower
        assert torch.allclose(usual, other, atol=SLACK), middle


@pytest.mark.parametrize(("norm", "eps"), [(L2(), 0.15), (L2(), 1.5), (L0(), 1.0), (L0(), 5.0)])
def test_verdicts(norm: Norm, eps: float) -> None:
    net, x, y = net_of(5, 5, 6, 5)
    about = Threat(norm, eps)
    (verdict,) = milp_verify(net, x, y, about, 20.0)
    assert verdict.status == ("broken" if eps in (1.5, 5.0) else "certified")
    if verdict.found is not None:
        found = verdict.found[None]
        assert int(net(found).argmax()) != int(y)
        assert bool(InputSet.of(x, about).ball.inside(found - x).all())


def test_l0_needs_a_box() -> None:
    net, x, y = net_of(0, 3)
    with pytest.raises(InputError, match="pixels in a box"):
        lp_margins(net, x, y, Threat(L0(), 1.0, low=-np.inf, high=np.inf))
