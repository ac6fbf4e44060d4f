"""Square in L2 and L1: the bumps, the proposals drawn once more by hand, and what they reach."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from torchproof.attack.catalogue import square
from torchproof.attack.combine import Attack
from torchproof.attack.run import Run
from torchproof.attack.square import PROPOSALS, Square
from torchproof.attack.square_bumps import Bumps, Windows
from torchproof.core import keys
from torchproof.core.errors import InputError
from torchproof.core.norms import L1, L2, Norm
from torchproof.core.objectives import Margin
from torchproof.core.sets import Ball
from torchproof.core.sites import Input
from torchproof.core.threats import Free, Region, Threat

Array = np.ndarray
BOTH = pytest.mark.parametrize("norm", [L2(), L1()], ids=["l2", "l1"])
POWER = {L2: 2, L1: 1}


def bumps(norm: Norm) -> Bumps:
    made = PROPOSALS[type(norm)]
    assert isinstance(made, Bumps)
    return made


def length(norm: Norm, d: Any) -> float:
    return float((np.abs(np.asarray(d, dtype=np.float64)) ** POWER[type(norm)]).sum()) ** (
        1 / POWER[type(norm)]
    )


# ---- bumps: nested rectangles laid one on the other


def hill(rows: int, columns: int, reach: int, decay: int, norm: Norm) -> Array:
    """Squares of side 1, 3, 5 ... around the middle, the k-th of height 1 / k^decay, cut at the
    border.
    """
    out = np.zeros((rows, columns))
    for k in range(1, reach + 1):
        for i in range(rows):
            for j in range(columns):
                if abs(i - rows // 2) < k and abs(j - columns // 2) < k:
                    out[i, j] += k**-decay
    return out / length(norm, out) if out.size else out


def pair(side: int, decay: int, norm: Norm) -> Array:
    """A hill above and a hole below."""
    reach = side // 2 + 1
    above = hill(side // 2, side, reach, decay, norm)
    below = hill(side - side // 2, side, reach, decay, norm)
    both = np.concatenate([above, -below])
    return both / length(norm, both)


@BOTH
def test_bumps_are_nested_squares(norm: Norm) -> None:
    """Windows of several sides at once, each listed as in the widest; upright and turned."""
    own, sides = bumps(norm), torch.arange(1, 10)
    decay = {L2: 2, L1: 4}[type(norm)]
    windows = Windows.of(sides, torch.float64)
    for turned in (False, True):
        found = own.bump(windows, torch.full_like(sides, turned).bool()).reshape(-1, 9, 9).numpy()
        for side, got in zip(sides.tolist(), found, strict=True):
            want = pair(side, decay, norm)
            assert np.allclose(got[:side, :side], want.T if turned else want, atol=1e-12)


# ---- proposals


def drawn(key: Tensor, t: int, channels: int) -> Array:
    return keys.uniform(key, t, (5 + channels,), 2).double().numpy()


def by_hand(norm: Norm, best: Array, eps: float, side: int, u: Array) -> Array:
    """One image (C, H, W): the changed point before it is brought into the ball."""
    p, decay, surplus = {L2: (2, 2, 1.0), L1: (1, 4, 3.0)}[type(norm)]
    channels, height, width = best.shape
    r1, c1, r2, c2 = (
        int(v * (n - side + 1)) for v, n in zip(u[:4], (height, width) * 2, strict=True)
    )
    one = np.s_[r1 : r1 + side, c1 : c1 + side]
    two = np.s_[r2 : r2 + side, c2 : c2 + side]
    mask = np.zeros((height, width), dtype=bool)
    mask[one] = mask[two] = True
    bump = pair(side, decay, norm)
    bump = bump.T if u[4] > 0.5 else bump
    left = (eps**p - length(norm, best) ** p) / channels
    out = best.copy()
    for c in range(channels):
        share = max(length(norm, best[c][mask]) ** p + left, 0) ** (1 / p)
        own = length(norm, best[c][one])
        new = bump * (1 if u[5 + c] > 0.5 else -1) + best[c][one] / (own + 1e-12)
        out[c][two] = 0
        out[c][one] = new / (length(norm, new) + 1e-12) * share * surplus
    return out


def sides(area: float, height: int, width: int) -> int:
    """The side of a window of about that many pixels: odd, at least 3, within the image."""
    side = max(round(math.sqrt(area)), 3)
    return min(side + (side % 2 == 0), height, width)


@BOTH
@pytest.mark.parametrize("shape", [(3, 9, 12), (1, 12, 9), (2, 4, 4), (1, 1, 5)], ids=str)
def test_proposals_as_published(norm: Norm, shape: tuple[int, ...]) -> None:
    """Images at different steps side by side, against one image at a time."""
    g = torch.Generator().manual_seed(0)
    x = 0.3 + 0.4 * torch.rand(4, *shape, generator=g, dtype=torch.float64)
    eps, pixels = 0.2, shape[1] * shape[2]
    ball = Ball.of(norm, torch.full((4,), eps).double(), -x, 1 - x)
    own, key = bumps(norm), keys.mix(3, torch.arange(4))
    best = own.start(ball, key)
    for t in range(1, 30):
        steps = torch.tensor([t, t + 20, t + 60, t + 300])
        area = pixels * torch.tensor([0.8, 0.4, 0.2, 0.05])
        found = own.propose(ball, key, steps, best, area)
        for i in range(4):
            u = drawn(key[i : i + 1], int(steps[i]), shape[0])[0]
            side = sides(float(area[i]), shape[1], shape[2])
            raw = by_hand(norm, best[i].numpy(), eps, side, u)
            one = Ball.of(norm, ball.radius[:1], -x[i : i + 1], 1 - x[i : i + 1])
            want = one.project(torch.tensor(raw)[None])[0]
            assert torch.allclose(found[i], want, atol=1e-5)
        best = found


@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 5, 9), (2, 1, 1), (3, 3, 2)], ids=str)
def test_points_stay_in_ball_and_box(
    norm: Norm, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    """Images with black and white pixels, every proposal accepted."""
    g = torch.Generator().manual_seed(1)
    x = torch.rand(5, *shape, generator=g, dtype=dtype)
    x = torch.where(x < 0.3, 0.0, torch.where(x > 0.7, 1.0, x))
    radius = torch.tensor([0.01, 0.5, 3.0, 20.0, 1e4], dtype=dtype)
    ball = Ball.of(norm, radius, -x, 1 - x)
    own, key = bumps(norm), keys.mix(0, torch.arange(5))
    best = own.start(ball, key)
    for t in range(60):
        assert bool((best >= ball.low).all() and (best <= ball.high).all())
        assert bool((norm.length(best.double()) <= radius.double() * (1 + 2e-6)).all())
        area = torch.full((5,), 0.8 * 0.7 ** (t // 5) * shape[1] * shape[2])
        best = own.propose(ball, key, torch.full((5,), t), best, area)
        assert best.dtype == dtype and bool(best.isfinite().all())


@BOTH
def test_nothing_of_the_radius_is_left_where_no_pixel_is_at_its_limit(norm: Norm) -> None:
    x = torch.full((6, 3, 16, 16), 0.5)
    ball = Ball.of(norm, torch.full((6,), 0.4), -x, 1 - x)
    own, key = bumps(norm), keys.mix(0, torch.arange(6))
    best = own.start(ball, key)
    for t in range(80):
        assert torch.allclose(norm.length(best), ball.radius, rtol=3e-6)
        best = own.propose(ball, key, torch.full((6,), t), best, torch.full((6,), 300.0 / (t + 1)))


def test_the_start_is_a_grid_of_bumps_with_signs_of_their_own() -> None:
    x = torch.full((8, 3, 32, 32), 0.5).double()
    ball = Ball.of(L2(), torch.full((8,), 0.3).double(), -x, 1 - x)
    start = bumps(L2()).start(ball, keys.mix(0, torch.arange(8))).numpy()
    inner = start[:, :, 1:31, 1:31]
    assert not (start.any((0, 1))[[0, 31]]).any() and not (start.any((0, 1))[:, [0, 31]]).any()
    bump = pair(6, 2, L2())
    size = 0.3 / math.sqrt(75)
    counted = np.zeros(4)
    for image in inner:
        for i in range(5):
            for j in range(5):
                tiles = image[:, 6 * i : 6 * i + 6, 6 * j : 6 * j + 6] / size
                kinds = [bump, -bump, bump.T, -bump.T]
                match = [[np.allclose(tile, kind, atol=1e-5) for kind in kinds] for tile in tiles]
                assert all(sum(row) == 1 for row in match)
                which = np.argmax(match, 1)
                assert len(set((which // 2).tolist())) == 1, "channels lie in the same direction"
                counted += np.bincount(which, minlength=4)
    assert counted.sum() == 600 and (abs(counted - 150) < 4.5 * math.sqrt(600 * 3 / 16) * 1.5).all()


@BOTH
def test_images_have_windows_of_their_own_that_reach_every_border(norm: Norm) -> None:
    """In L1 only the peaks of a bump remain, which lie off its corners."""
    x = torch.full((64, 1, 7, 7), 0.5)
    ball = Ball.of(norm, torch.full((64,), 0.4), -x, 1 - x)
    own, key = bumps(norm), keys.mix(0, torch.arange(64))
    best, hit = torch.zeros_like(x), torch.zeros(7, 7)
    for t in range(20):
        steps = torch.full((64,), t)
        after = own.propose(ball, key, steps, best, torch.full((64,), 9.0))
        hit += (after != 0).float().sum((0, 1))
    reached = hit > 0
    if isinstance(norm, L1):
        reached[[0, 0, -1, -1], [0, -1, 0, -1]] = True
    assert bool(reached.all())
    assert len({tuple(row) for row in (after != 0).flatten(1).tolist()}) > 15


@BOTH
def test_an_image_is_treated_alike_in_any_company(norm: Norm, make_problem: Any) -> None:
    problem = make_problem(n=4, dtype=torch.float64)
    attack = Attack(Threat(norm, 0.3), Margin(), Square(20))
    run = Run(seed=2, patience=math.inf)
    whole = attack(problem.model, problem.x, problem.y, run=run)
    for i in range(4):
        ids = torch.tensor([i])
        alone = attack(
            problem.model, problem.x[i : i + 1], problem.y[i : i + 1],
            run=Run(seed=2, ids=ids, patience=math.inf),
        )  # fmt: skip
        assert torch.allclose(alone.value[0], whole.value[i], atol=1e-9)


@BOTH
def test_outside_a_region_nothing_changes(norm: Norm, make_problem: Any) -> None:
    problem = make_problem(n=3)
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[1:, :2] = True
    threat = Region(Threat(norm, 0.5), mask)
    found = square(threat, 50)(problem.model, problem.x, problem.y, run=Run(patience=math.inf))
    assert isinstance(found.value, Tensor)
    assert bool(found.value[:, 0, 1:, :2].any()) and not bool(found.value[..., ~mask].any())


@BOTH
def test_a_threat_without_bound_is_refused(norm: Norm) -> None:
    with pytest.raises(InputError, match="bounded"):
        Attack(Free(Input(), norm=norm), Margin(), Square(10))


# ---- what it reaches


@BOTH
def test_it_beats_as_many_random_points_on_a_linear_model(norm: Norm) -> None:
    """Without a box the maximum is the radius times the dual norm; no gradient is asked for."""
    g = torch.Generator().manual_seed(2)
    w = torch.randn(36, generator=g)
    dual = float(w.norm() if isinstance(norm, L2) else w.abs().max())
    asked: list[bool] = []

    def model(x: Tensor) -> Tensor:
        asked.append(x.requires_grad)
        z = x.flatten(1) @ w
        return torch.stack([torch.full_like(z, 9.0), z], 1)

    x, y, eps = torch.zeros(3, 1, 6, 6), torch.zeros(3).long(), 0.1
    threat = Threat(norm, eps, low=-50.0, high=50.0)
    found = Attack(threat, Margin(), Square(300))(model, x, y)
    assert len(asked) == 300 and not any(asked)
    points = torch.randn(300, 36, generator=g)
    if isinstance(norm, L1):
        points = points.sign() * torch.rand(300, 36, generator=g).log()
    best = float((points @ w / norm.length(points)).max())
    assert bool((found.score + 9 > eps * best).all())
    assert bool((found.score + 9 <= eps * dual * (1 + 1e-4)).all())
