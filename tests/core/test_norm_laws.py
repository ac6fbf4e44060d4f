"""The laws every norm keeps: projections, steps, random points, empty and degenerate sets."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from torchproof.core import keys
from torchproof.core.norms import L0, L2, name_of
from torchproof.core.sets import Ball

FEW = settings(max_examples=12, deadline=None, derandomize=True)
LAWS = settings(max_examples=30, deadline=None, derandomize=True)
SEEDS = st.integers(0, 10**6)


def double(numbers: Iterable[float]) -> Tensor:
    return torch.tensor([float(v) for v in numbers], dtype=torch.float64)


# ---- laws


@LAWS
@given(seed=SEEDS)
def test_projection_theorem(convex: Any, draw: Any, seed: int) -> None:
    """p is the projection of d exactly when <d - p, q - p> <= 0 for every q of the set."""
    sample = draw(convex, seed)
    p = sample.ball.project(sample.d)
    assert bool(sample.ball.inside(p).all())
    rng = np.random.default_rng(seed)
    others = [torch.tensor(rng.normal(size=p.shape)) * scale for scale in (0.1, 1.0, 10.0)]
    for q in (sample.ball.project(o) for o in others):
        angle = ((sample.d - p) * (q - p)).sum(1)
        assert bool((angle <= 1e-9 * (1 + sample.d.abs().amax())).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@LAWS
@given(seed=SEEDS)
def test_projection_is_idempotent_inside_and_of_its_dtype(
    case: Any, draw: Any, dtype: torch.dtype, seed: int
) -> None:
    sample = draw(case, seed, rows=4, size=9, dtype=dtype)
    p = sample.ball.project(sample.d)
    again = sample.ball.project(p)
    noise = 1e-6 if dtype == torch.float32 else 1e-13
    assert p.dtype == dtype and p.shape == sample.d.shape
    assert bool((again - p).abs().amax() <= noise * 3)
    assert bool((p >= sample.ball.low).all() and (p <= sample.ball.high).all()), (
        "the box must hold exactly"
    )
    assert bool(sample.ball.inside(p).all())
    assert bool((case.norm.length(p) <= sample.ball.radius * (1 + 4 * noise)).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@LAWS
@given(seed=SEEDS)
def test_points_of_the_set_stay_where_they_are(
    case: Any, draw: Any, dtype: torch.dtype, seed: int
) -> None:
    sample = draw(case, seed, dtype=dtype)
    p = sample.ball.project(sample.d) * 0.5
    if case.convex:
        assert torch.equal(sample.ball.project(p), p)
    assert torch.equal(sample.ball.project(sample.ball.zero()), torch.zeros_like(p))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@LAWS
@given(seed=SEEDS)
def test_samples_lie_in_the_set(case: Any, draw: Any, dtype: torch.dtype, seed: int) -> None:
    ball = draw(case, seed, dtype=dtype).ball
    key = keys.mix(seed, torch.arange(3))
    for point in (ball.sample(key), ball.sphere(key), ball.gaussian(key, 0.1)):
        assert point.dtype == dtype
        assert bool(ball.inside(point).all())
        assert bool(point.isfinite().all())


@LAWS
@given(seed=SEEDS)
def test_a_step_stays_inside_and_never_lowers_the_linear_gain(
    case: Any, draw: Any, seed: int
) -> None:
    sample = draw(case, seed)
    start = sample.ball.project(sample.d)
    moved = sample.ball.advance(start.clone(), sample.a, torch.tensor([0.1, 0.5, 1.0]).double())
    assert bool(sample.ball.inside(moved).all())
    if name_of(case.norm) in (
        "linf",
        "l2",
    ):  # L1's step is steepest before, not after, its projection
        gain = (sample.a * (moved - start)).sum(1)
        assert bool((gain >= -1e-9 * (1 + sample.a.abs().amax())).all())


def test_zero_gradients_do_not_move(case: Any) -> None:
    zero = torch.zeros(2, 1, 2, 2)
    ball = Ball.of(case.norm, torch.tensor([1.0, 2.0]), zero - 0.5, zero + 0.5)
    for moved in (
        case.norm.steepest(zero.clone()),
        ball.maximiser(zero),
        ball.advance(zero.clone(), zero, 1.0),
    ):
        assert torch.equal(moved, zero)
    assert torch.equal(ball.support(zero), torch.zeros(2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_rows_no_trouble(case: Any, dtype: torch.dtype) -> None:
    none = torch.zeros(0, 1, 2, 2, dtype=dtype)
    ball = Ball.of(case.norm, none.new_zeros(0), none, none)
    key = torch.zeros(0, dtype=torch.int64)
    answers = [
        case.norm.steepest(none.clone()),
        ball.project(none),
        ball.maximiser(none),
        ball.sample(key),
        ball.sphere(key),
        ball.advance(none.clone(), none, 1.0),
    ]
    assert all(a.shape == none.shape and a.dtype == dtype for a in answers)
    assert case.norm.length(none).shape == (0,) and ball.support(none).shape == (0,)


def test_a_closed_box_leaves_nothing(case: Any) -> None:
    zero, one = torch.zeros(1, 4), torch.ones(1, 4)
    ball = Ball.of(case.norm, torch.tensor([1.0]), zero, zero)
    for answer in (ball.project(one), ball.maximiser(one), ball.sample(torch.tensor([1]))):
        assert torch.equal(answer, zero)


def test_a_radius_of_zero_leaves_nothing(convex: Any) -> None:
    """A tensor of zero weights has a relative ball of radius 0."""
    one, inf = torch.ones(1, 4), torch.full((1, 4), torch.inf)
    ball = Ball.of(convex.norm, torch.tensor([0.0]), -inf, inf)
    for answer in (ball.project(one), ball.maximiser(one), ball.sample(torch.tensor([1]))):
        assert torch.equal(answer, torch.zeros(1, 4))


def test_a_huge_radius_leaves_only_the_box(case: Any) -> None:
    d = torch.tensor([[3.0, -2.0, 0.25, -0.25]])
    ball = Ball.of(case.norm, torch.tensor([1e6]), -torch.ones(1, 4), 0.5 * torch.ones(1, 4))
    assert torch.allclose(ball.project(d), d.clamp(-1, 0.5))
    assert torch.allclose(ball.maximiser(d), torch.tensor([[0.5, -1.0, 0.5, -1.0]]))


# ---- random points


def test_sphere_points_lie_on_the_sphere_and_lean_nowhere(bounded: Any) -> None:
    n, inf = 20_000, torch.full((1, 6), torch.inf).double()
    ball = Ball.of(
        bounded.norm, torch.full((n,), 2.0).double(), -inf.expand(n, 6), inf.expand(n, 6)
    )
    points = ball.sphere(keys.mix(7, torch.arange(n)))
    assert torch.allclose(bounded.norm.length(points), torch.full((n,), 2.0).double())
    assert float((points.mean(0) / points.std(0)).abs().max()) < 5 / n**0.5
    spread = points.square().mean(0)
    assert float(spread.max() / spread.min()) < 1.1


def test_ball_points_fill_the_ball_evenly(bounded: Any) -> None:
    """The share of points within t radii is t^d: the fractions length^d are uniform on (0, 1)."""
    n, size = 4000, 4
    inf = torch.full((n, size), torch.inf).double()
    ball = Ball.of(bounded.norm, torch.full((n,), 3.0).double(), -inf, inf)
    share = (
        (bounded.norm.length(ball.sample(keys.mix(3, torch.arange(n)))) / 3).pow(size).sort().values
    )
    even = (torch.arange(n) + 0.5).double() / n
    assert float((share - even).abs().max()) < 1.95 / n**0.5  # Kolmogorov and Smirnov, level 0.001


def test_l0_samples_change_as_many_coordinates_as_allowed() -> None:
    like = torch.zeros(50, 1, 4, 4)
    ball = Ball.of(L0(), torch.full((50,), 5.0), like - 0.5, like + 0.5)
    points = ball.sample(keys.mix(1, torch.arange(50)))
    assert torch.equal(L0().length(points), torch.full((50,), 5.0))
    assert len({tuple(p.flatten().tolist()) for p in points}) > 45


def test_repeated_l2_projection_spends_the_whole_budget_on_saturated_pixels() -> None:
    """Clamping last would leave a part of the budget unused; the exact projection does not."""
    x = torch.tensor([[1.0, 1.0, 0.5, 0.5]]).double()
    ball = Ball.of(L2(), torch.tensor([0.4]).double(), -x, 1 - x)
    p = ball.project(torch.tensor([[5.0, 5.0, 1.0, 1.0]]).double())
    assert torch.allclose(p, torch.tensor([[0.0, 0.0, 0.08**0.5, 0.08**0.5]]).double(), atol=1e-12)
