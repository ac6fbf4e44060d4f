"""Every norm is exact on ball and box: against scipy's solvers and brute force."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from torchproof.core.norms import NORMS, name_of
from torchproof.core.sets import Ball

FEW = settings(max_examples=12, deadline=None, derandomize=True)
LAWS = settings(max_examples=30, deadline=None, derandomize=True)
SEEDS = st.integers(0, 10**6)


def test_every_listed_norm_has_a_row(request: pytest.FixtureRequest, case: Any) -> None:
    assert type(NORMS[name_of(case.norm)]) is type(case.norm)
    assert len(NORMS) == 4, "a new norm needs a row in conftest.py"


def double(numbers: Iterable[float]) -> Tensor:
    return torch.tensor([float(v) for v in numbers], dtype=torch.float64)


def box(ball: Ball, row: int) -> tuple[float, Any, Any]:
    """Radius, low and high of one row: the raw box, not the one the ball has cut."""
    return float(ball.radius[row]), ball.low[row].double().numpy(), ball.high[row].double().numpy()


# ---- exactness


@FEW
@given(seed=SEEDS)
def test_length_is_the_textbook_formula(case: Any, draw: Any, seed: int) -> None:
    sample = draw(case, seed)
    expected = double(case.length(row.numpy()) for row in sample.d)
    assert torch.allclose(case.norm.length(sample.d), expected, rtol=1e-12)
    image = sample.d.reshape(-1, 1, 1, 5)
    assert torch.equal(case.norm.length(image), case.norm.length(sample.d))


@FEW
@given(seed=SEEDS)
def test_projection_is_what_an_independent_solver_finds(case: Any, draw: Any, seed: int) -> None:
    sample = draw(case, seed)
    given_ = sample.d.clone()
    found = sample.ball.project(sample.d)
    assert torch.equal(sample.d, given_), "project wrote into its argument"
    for row, (d, u) in enumerate(zip(sample.d.numpy(), found.numpy(), strict=True)):
        best = case.nearest(d, *box(sample.ball, row))
        miss, least = (float(np.linalg.norm(v - d)) for v in (u, best))
        assert miss <= least + 1e-5 * (1 + least), (miss, least)
        if case.convex:
            assert np.abs(u - best).max() < 1e-4 * (1 + np.abs(d).max()), (u, best)


@FEW
@given(seed=SEEDS)
def test_maximiser_is_what_an_independent_solver_finds(case: Any, draw: Any, seed: int) -> None:
    sample = draw(
        case, seed + (seed % 4 == 0 and case.dual is None)
    )  # L0 is unbounded without a box
    if case.dual is None and not bool(sample.ball.high.isfinite().all()):
        sample = draw(case, 4 * seed + 2)
    found, support = sample.ball.maximiser(sample.a), sample.ball.support(sample.a)
    assert bool(sample.ball.inside(found).all())
    for row, a in enumerate(sample.a.numpy()):
        most = case.most(a, *box(sample.ball, row))
        assert float(support[row]) == pytest.approx(most, rel=1e-7, abs=1e-9)
        assert float((sample.a[row] * found[row]).sum()) == pytest.approx(most, rel=1e-7, abs=1e-9)


@FEW
@given(seed=SEEDS)
def test_support_without_a_box_is_radius_times_the_dual_norm(
    bounded: Any, draw: Any, seed: int
) -> None:
    sample = draw(bounded, 4 * seed)
    assert bounded.dual is not None
    rows = zip(sample.ball.radius, sample.a, strict=True)
    expected = double(float(r) * bounded.dual(a.numpy()) for r, a in rows)
    assert torch.allclose(sample.ball.support(sample.a), expected, rtol=1e-9)


@FEW
@given(seed=SEEDS)
def test_steepest_is_the_unit_vector_that_gains_most(bounded: Any, draw: Any, seed: int) -> None:
    g = draw(bounded, seed).a
    u = bounded.norm.steepest(g.clone())
    assert bounded.dual is not None
    gain = double(bounded.dual(row.numpy()) for row in g)
    assert torch.allclose((g * u).sum(1), gain, rtol=1e-9)
    assert bool((bounded.norm.length(u) <= 1 + 1e-9).all())


@pytest.mark.parametrize("size", [1e-44, 1e-38, 1e-30, 1e-20, 1e-10, 1.0, 1e10, 1e20, 1e30])
def test_the_size_of_a_gradient_does_not_matter(case: Any, size: float) -> None:
    """Saturated softmaxes give gradients of 1e-30 in float32: the direction is the same, and so is
    the step.
    """
    g = (
        torch.tensor([[3.0, -4.0, 0.0, 1.0]])
        if size > 1e-40
        else torch.tensor([[1.0, -2.0, 0.0, 1.0]])
    )
    small = g * size
    if size > 1e-40:  # subnormal numbers are too coarse for the direction, not for the length
        assert torch.allclose(case.norm.steepest(small), case.norm.steepest(g.clone()), rtol=1e-4)
    assert float(case.norm.length(case.norm.steepest(small))) <= 1 + 1e-4
    ball = Ball.of(case.norm, torch.tensor([1.0]), -torch.ones(1, 4), torch.ones(1, 4))
    moved = ball.maximiser(small)
    assert bool(moved.isfinite().all()) and bool(ball.inside(moved).all())
    if size > 1e-40:
        assert torch.allclose(moved, ball.maximiser(g.clone()), rtol=1e-4)
    step = ball.advance(torch.zeros(1, 4), small, 0.5)
    assert bool(ball.inside(step).all())
    if case.convex and size > 1e-40:
        assert torch.allclose(step, ball.advance(torch.zeros(1, 4), g.clone(), 0.5), rtol=1e-4)
