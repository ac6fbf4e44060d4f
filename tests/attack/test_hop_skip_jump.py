"""HopSkipJump: reaches the closed form on linear classifiers, by decisions alone, each example for
itself.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchproof.attack.cases import Point
from torchproof.attack.hop_skip_jump import DIRECTION, JUMP, HopSkipJump, hop_skip_jump
from torchproof.attack.minimum import MinimumNorm, Unlimited
from torchproof.attack.run import Run
from torchproof.core import keys
from torchproof.core.errors import InputError
from torchproof.core.norms import L1, L2, Linf, Norm
from torchproof.core.sets import Ball
from torchproof.core.threats import Region, Threat


class Linear(nn.Module):
    """Two classes, told apart by the sign of <w, x> + b."""

    def __init__(self, size: int, seed: int = 0) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.w = nn.Parameter(torch.randn(size, generator=g, dtype=torch.float64))
        self.b = nn.Parameter(-0.5 * self.w.sum().detach())

    def forward(self, x: Tensor) -> Tensor:
        z = x.flatten(1) @ self.w + self.b
        return torch.stack([torch.zeros_like(z), z], 1)


def problem(side: int = 4, n: int = 4) -> tuple[Linear, Tensor, Tensor]:
    model = Linear(side * side).eval()
    g = torch.Generator().manual_seed(1)
    x = 0.5 + 0.03 * torch.randn(n, 1, side, side, generator=g, dtype=torch.float64)
    with torch.no_grad():
        return model, x, model(x).argmax(1)


def closed_form(model: Linear, x: Tensor, norm: Norm) -> Tensor:
    """|<w, x> + b| / |w|_dual, the box being far away."""
    z = (x.flatten(1) @ model.w + model.b).detach().abs()
    dual = model.w.norm() if isinstance(norm, L2) else model.w.abs().sum()
    return z / dual.detach()


@pytest.mark.slow
@pytest.mark.parametrize(("norm", "excess"), [(L2(), 0.05), (Linf(), 0.1)], ids=["l2", "linf"])
def test_the_distance_approaches_the_closed_form(norm: Norm, excess: float) -> None:
    model, x, y = problem()
    true = closed_form(model, x, norm)
    few, many = (
        MinimumNorm(hop_skip_jump(Unlimited(norm), q))(model, x, y).distance / true - 1
        for q in (200, 1200)
    )
    assert bool((many >= -1e-9).all()), "nothing is nearer than the plane"
    assert bool((many <= few).all()), "the same run, longer: the nearest of more points"
    assert float(many.mean()) < excess and float(many.mean()) < 0.5 * float(few.mean())


def test_the_directions_average_to_the_normal() -> None:
    """n signs in D dimensions: cos^2 = c / (c + D) with c = 2 n / pi, on average."""
    model, x, y = problem(n=40)
    ball = Unlimited(L2()).set(model, x)
    assert isinstance(ball, Ball)
    search, key = HopSkipJump(5000, first=100), keys.mix(0, torch.arange(40))
    state = search.init(ball, key)
    normals: list[Tensor] = []
    seen = torch.zeros(40, dtype=torch.bool)
    while not bool(seen.all()):
        won = model(x + state.delta).argmax(1) != y
        value = torch.zeros(40, dtype=torch.float64)
        state = search.step(ball, key, state, Point(value, value, won, None, (1, 0)))
        rows = (state.phase == JUMP) & ~seen
        normals += [state.signed[i].flatten().clone() for i in rows.nonzero()[:, 0]]
        away = model.w.detach()
        seen |= rows
    # towards the other class: up the plane for label 0, down for label 1
    cosines = [abs(float(torch.cosine_similarity(v, away, 0))) for v in normals]
    effective = 2 * 100 / math.pi
    expected = math.sqrt(effective / (effective + 16))
    assert sum(cosines) / 40 == pytest.approx(expected, abs=0.05)


def test_decisions_are_all_that_is_read() -> None:
    model, x, y = problem()
    ball = Unlimited(Linf()).set(model, x)
    search, key = HopSkipJump(200, first=10), keys.mix(0, torch.arange(4))
    one, two = search.init(ball, key), search.init(ball, key)
    g = torch.Generator().manual_seed(0)
    for _ in range(120):
        won = model(x + one.delta).argmax(1) != y
        none = torch.full((4,), torch.nan, dtype=torch.float64)
        noise = torch.randn(4, generator=g, dtype=torch.float64)
        one = search.step(ball, key, one, Point(none, none, won, None, (1, 0)))
        two = search.step(ball, key, two, Point(noise, noise, won, None, (1, 0)))
        assert torch.equal(one.delta, two.delta)
    assert bool((one.hops > 1).all())


def test_every_question_lies_in_the_box_and_the_line_is_halved() -> None:
    model, x, y = problem()
    x[:, :, 0] = 0.0
    y = model(x).argmax(1)
    ball = Unlimited(L2()).set(model, x)
    assert isinstance(ball, Ball)
    search, key = HopSkipJump(500, first=10), keys.mix(3, torch.arange(4))
    state = search.init(ball, key)
    bases: dict[int, list[float]] = {i: [] for i in range(4)}
    for _ in range(200):
        asked = x + state.delta
        assert float(asked.min()) >= -1e-12 and float(asked.max()) <= 1 + 1e-12
        won = model(asked).argmax(1) != y
        before = state.hops.clone()
        value = torch.zeros(4, dtype=torch.float64)
        state = search.step(ball, key, state, Point(value, value, won, None, (1, 0)))
        for i in (state.hops > before).nonzero()[:, 0].tolist():
            assert int(state.phase[i]) == DIRECTION
            # on the line from the image to the far end: 16^-1.5 = 1 / 64 of it is the precision
            nearer = state.base[i] - state.far[i] / 64
            two = model(torch.stack([x[i] + state.base[i], x[i] + nearer])).argmax(1)
            assert bool(two[0] != y[i]) and bool(two[1] == y[i]), "not next to the boundary"
            bases[i].append(float(state.base[i].norm()))
    assert all(len(b) >= 4 and b[-1] < b[0] for b in bases.values())


@pytest.mark.parametrize("queries", [2, 25, 150])
def test_queries_are_a_hard_limit(queries: int, counted: Any) -> None:
    model, x, y = problem()
    watched = counted(model)
    found = hop_skip_jump(Threat(L2(), 1e-9), queries)(watched, x, y, run=Run(slots=3))
    assert found.spent.tolist() == [[queries, 0]] * 4
    assert (watched.forwards, watched.backwards) == (4 * queries, 0)


def test_a_budget_ends_it_sooner() -> None:
    model, x, y = problem()
    found = hop_skip_jump(Threat(L2(), 1e-9))(model, x, y, run=Run(budget=77))
    assert found.spent.sum(1).tolist() == [77] * 4


class Bright(nn.Module):
    """Class 1 where the mean is above 0.8: few pictures of noise are."""

    def forward(self, x: Tensor) -> Tensor:
        z = x.flatten(1).mean(1) - 0.8
        return torch.stack([torch.zeros_like(z), z], 1)


def test_an_example_without_a_start_fails_by_itself() -> None:
    x = torch.full((24, 1, 4, 4), 0.5)
    y = torch.zeros(24, dtype=torch.int64)
    found = hop_skip_jump(Threat(Linf(), 0.32), 600, tries=4)(Bright().eval(), x, y)
    assert bool(found.done.all())
    stuck = ~found.lost
    assert 4 < int(stuck.sum()) < 20, "one colour in five is bright enough"
    # the clean image, four pictures, and the look at the last point that every job ends with
    assert found.spent[stuck].tolist() == [[6, 0]] * int(stuck.sum())
    assert bool(((x + found.value)[found.lost].flatten(1).mean(1) > 0.8).all())


def test_a_picture_that_is_wrong_already_costs_one_query() -> None:
    model, x, y = problem()
    found = hop_skip_jump(Threat(L2(), 0.1), 50)(model, x, 1 - y)
    assert bool(found.lost.all()) and found.spent.tolist() == [[1, 0]] * 4
    assert not bool(found.value.any())
    near = MinimumNorm(hop_skip_jump(Unlimited(L2()), 50))(model, x, 1 - y)
    assert near.distance.tolist() == [0.0] * 4


def test_it_ends_with_the_first_win_inside_the_ball() -> None:
    model, x, y = problem()
    eps = 1.2 * float(closed_form(model, x, L2()).max())
    found = hop_skip_jump(Threat(L2(), eps), 3000)(model, x, y)
    assert bool(found.lost.all())
    assert bool((found.value.flatten(1).norm(dim=1) <= eps * (1 + 1e-9)).all())
    assert bool((found.spent[:, 0] < 1500).all())


def test_decisions_and_counts_do_not_depend_on_slots_or_order() -> None:
    model, x, y = problem(n=7)
    eps = 1.5 * float(closed_form(model, x, Linf()).median())
    attack = hop_skip_jump(Threat(Linf(), eps), 120, first=10)
    one, two = (attack(model, x, y, run=Run(seed=2, slots=s)) for s in (1, 64))
    order = torch.tensor([5, 2, 0, 1, 3, 6, 4])
    three = attack(model, x[order], y[order], run=Run(seed=2, slots=4, ids=order))
    assert 0 < int(one.lost.sum()) < 7
    assert torch.equal(one.lost, two.lost) and torch.equal(one.spent, two.spent)
    assert torch.equal(one.lost[order], three.lost) and torch.equal(one.spent[order], three.spent)


def test_a_region_is_never_left() -> None:
    model, x, y = problem()
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[1:, :3] = True
    found = hop_skip_jump(Region(Threat(L2(), 2.0), mask), 800)(model, x, y)
    assert bool(found.lost.any()) and not bool(found.value[:, :, ~mask].any())


def test_what_it_is_not_for() -> None:
    with pytest.raises(InputError, match="norm L2 or Linf"):
        hop_skip_jump(Threat(L1(), 1.0))
    with pytest.raises(InputError, match="at least 2"):
        HopSkipJump(queries=1)
    with pytest.raises(InputError, match="tries = 0"):
        HopSkipJump(tries=0)
    with pytest.raises(InputError, match="queries = 0"):
        HopSkipJump(queries=0)
