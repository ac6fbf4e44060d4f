"""Rounding to grey levels: on the grid, in ball and box, and as near or as long as these allow."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from torchproof.core.grid import on_grid
from torchproof.core.norms import L0, L1, L2, Linf, Norm
from torchproof.core.sets import Ball
from torchproof.core.sites import Input
from torchproof.core.threats import Free, Region, Threat

# radii that are whole, half and odd numbers of grey levels, some smaller than the number of pixels
RADII: list[tuple[Norm, float]] = [
    (Linf(), 8 / 255), (Linf(), 0.5 / 255), (Linf(), 0.1), (L2(), 0.02), (L2(), 0.15), (L2(), 1.0),
    (L1(), 0.03), (L1(), 2.0), (L0(), 3),
]  # fmt: skip
each_radius = pytest.mark.parametrize(("norm", "eps"), RADII, ids=str)
each_type = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


def images(count: int, pixels: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Bytes, a third of them black or white."""
    g = torch.Generator().manual_seed(count)
    bytes_ = torch.randint(-60, 316, (count, 1, 1, pixels), generator=g).clamp(0, 255)
    return bytes_.to(dtype) / 255


def points(ball: Ball, size: float) -> Tensor:
    g = torch.Generator().manual_seed(1)
    noise = torch.randn(ball.low.shape, generator=g, dtype=torch.float64) * size
    return ball.project(noise.to(ball.low.dtype))


def around(norm: Norm, eps: float, x: Tensor) -> Ball:
    ball = Threat(norm, eps).set(lambda t: t, x)
    assert isinstance(ball, Ball)
    return ball


@each_type
@each_radius
@pytest.mark.parametrize("size", [0.001, 0.01, 0.3])
def test_laws(norm: Norm, eps: float, size: float, dtype: torch.dtype) -> None:
    x = images(30, 40, dtype)
    ball = around(norm, eps, x)
    delta = points(ball, size)
    found = on_grid(ball, delta)
    level = (x + found) * 255
    assert float((level - level.round()).abs().max()) < 1e-4
    assert bool(ball.inside(found).all()) and bool(ball.inside(delta).all())
    assert bool(((found - delta).abs() < 1 / 255).all()), "further than the next level"
    assert bool((found * delta >= 0).all()) and not bool(found[delta == 0].any())
    assert torch.equal(on_grid(ball, found), found), "what is on the grid has to stay"
    alone = torch.cat(
        [on_grid(around(norm, eps, x[i : i + 1]), delta[i : i + 1]) for i in range(5)]
    )
    assert torch.equal(alone, found[:5]), "rows mix"
    assert not bool(on_grid(ball, ball.zero()).any())


def nearest(ball: Ball, delta: Tensor) -> Tensor:
    """By brute force: of all grid points of ball and box next to delta (one row), the nearest."""
    cut = (delta.flatten() * 255).floor()
    every = torch.tensor(list(itertools.product([0, 1], repeat=len(cut)))) + cut
    near = (every / 255).reshape(len(every), *delta.shape[1:])
    one = around(ball.norm, float(ball.radius[0]), ball.low[:1].neg().expand_as(near))
    kept = near[one.inside(near)]
    best: Tensor = kept[(kept - delta).flatten(1).square().sum(1).argmin()]
    return best


@each_radius
def test_the_nearest_point_where_it_is_no_shorter(norm: Norm, eps: float) -> None:
    """Among all neighbours; for L2, where lowering is a knapsack, only of points in the ball."""
    x = images(40, 6, torch.float64)
    ball = around(norm, eps, x)
    delta, checked = points(ball, 0.02), 0
    found = on_grid(ball, delta)
    for i in range(40):
        best = nearest(around(norm, eps, x[i : i + 1]), delta[i : i + 1])
        free = ((delta[i] * 255).round() / 255).clamp(-x[i], 1 - x[i])
        shorter = norm.length(best[None]) < norm.length(delta[i : i + 1])
        knapsack = isinstance(norm, L2) and not torch.allclose(best, free)
        if not knapsack and (isinstance(norm, (Linf, L0)) or not bool(shorter)):
            assert torch.allclose(found[i], best, atol=1e-9)
            checked += 1
    assert checked >= 5 or eps < 0.05


@pytest.mark.parametrize(("norm", "eps"), [(L2(), 0.15), (L2(), 0.02), (L1(), 2.0), (L1(), 12.0)])
def test_the_radius_is_spent(norm: Any, eps: float) -> None:
    """What is left of it is less than another level costs where most was won."""
    x = torch.full((20, 3, 32, 32), 100 / 255)
    ball = around(norm, eps, x)
    delta = points(ball, 0.05)
    delta = delta * (eps / norm.length(delta))[:, None, None, None]
    found = on_grid(ball, delta)
    power = 2 if isinstance(norm, L2) else 1
    left = (eps * 255) ** power - (norm.length(found) * 255) ** power
    assert bool((left < (found.abs() * 255).flatten(1).amax(1) * 2 + 1).all())
    cut = (delta * 255).trunc() / 255
    gain, before = ((d * delta).flatten(1).sum(1) for d in (found, cut))
    assert bool((gain > before).all())


def test_a_linear_optimum_is_kept() -> None:
    """The best an adversary can do by moving the k most important pixels by one level each."""
    g = torch.Generator().manual_seed(0)
    w = torch.randn(1, 3, 32, 32, generator=g)
    ball = around(L2(), 0.15, torch.full((1, 3, 32, 32), 128 / 255))
    found = on_grid(ball, ball.maximiser(w))
    best = w.abs().flatten().topk(int((0.15 * 255) ** 2)).values.sum() / 255
    assert bool(ball.inside(found)) and float((found * w).sum()) >= float(best)


def test_lowering_takes_the_least_first() -> None:
    ball = around(L2(), 2.05 / 255, torch.full((1, 1, 1, 6), 100 / 255, dtype=torch.float64))
    delta = torch.tensor([0.9, -0.8, 0.6, 0.95, 0.7, 0.55], dtype=torch.float64) / 255
    found = on_grid(ball, delta.reshape(1, 1, 1, 6)) * 255
    assert found.flatten().round().tolist() == [1, -1, 0, 1, 1, 0]


def test_ties_go_to_the_first() -> None:
    ball = around(L1(), 2 / 255, torch.full((1, 1, 1, 4), 100 / 255))
    found = on_grid(ball, torch.full((1, 1, 1, 4), 0.5 / 255)) * 255
    assert found.flatten().round().tolist() == [1, 1, 0, 0]


def test_regions_and_sets_without_bound() -> None:
    x = images(10, 8, torch.float64)
    mask = torch.arange(8) < 3
    inside = Region(Threat(L2(), 0.5), mask).set(lambda t: t, x)
    assert isinstance(inside, Ball)
    assert not bool(on_grid(inside, points(inside, 0.1))[..., 3:].any())
    free = Free(Input()).set(lambda t: t, x)
    assert isinstance(free, Ball)
    far = torch.full_like(x, 0.301)
    assert torch.allclose(on_grid(free, far) * 255, torch.full_like(x, 77), atol=1e-6)


def test_points_outside_stay_outside() -> None:
    """Searches that wander across the boundary of the ball are answered about where they are."""
    ball = around(L2(), 4 / 255, torch.full((1, 1, 1, 4), 100 / 255))
    found = on_grid(ball, torch.full((1, 1, 1, 4), 5.2 / 255))
    length = float(ball.length(found)) * 255
    assert 10 <= length <= 10.4 + 1e-6


def test_another_norm_is_cut_towards_zero() -> None:
    class Weighted(L2):
        def length(self, d: Tensor) -> Tensor:
            return super().length(d * 2)

    class Own(Norm):
        length = Weighted.length
        steepest = maximiser = project = random = L2.steepest  # type: ignore[assignment]

    x = torch.full((1, 1, 1, 2), 100 / 255)
    ball = around(Own(), 0.5, x)  # type: ignore[abstract]
    found = on_grid(ball, torch.tensor([1.9, -1.2]).reshape(1, 1, 1, 2) / 255) * 255
    assert found.flatten().round().tolist() == [1, -1]
