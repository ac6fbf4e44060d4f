"""Square's proposals, looked at one by one: windows, values, schedule, acceptance."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from torchproof.attack.cases import Point
from torchproof.attack.combine import Attack
from torchproof.attack.run import Run
from torchproof.attack.square import Square
from torchproof.core import keys
from torchproof.core.norms import Linf
from torchproof.core.objectives import Margin
from torchproof.core.sets import Ball
from torchproof.core.threats import Threat


@dataclass
class Record:
    """What was proposed, and from which best point, step by step."""

    before: list[Tensor] = field(default_factory=list)
    after: list[Tensor] = field(default_factory=list)


def play(x: Tensor, queries: int, eps: float, accept: bool, seed: int = 0) -> tuple[Record, Ball]:
    """Square with a made-up oracle that accepts every proposal, or none but the first."""
    n = len(x)
    ball = Ball.of(Linf(), torch.full((n,), eps, dtype=x.dtype), -x, 1 - x)
    search, key, record = Square(queries), keys.mix(seed, torch.arange(n)), Record()
    state = search.init(ball, key)
    for t in range(queries - 1):
        loss = torch.full((n,), float(t if accept else -t), dtype=x.dtype)
        asked = state.delta.clone()
        point = Point(loss, loss, loss < -1e9, None, (1, 0))
        state = search.step(ball, key, state, point)
        record.before.append(asked if accept or t == 0 else record.before[0])
        record.after.append(state.delta.clone())
    return record, ball


SHAPES = [(8, 1, 8, 8), (6, 3, 6, 10), (6, 3, 10, 6), (4, 2, 1, 7), (3, 1, 1, 1)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("accept", [True, False])
def test_proposals_change_one_square_to_the_extremes(shape: tuple[int, ...], accept: bool) -> None:
    x = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    record, ball = play(x, 60, 0.3, accept)
    up, down = (x + 0.3).clamp(max=1) - x, (x - 0.3).clamp(min=0) - x
    for t, (old, new) in enumerate(zip(record.before, record.after, strict=True), 1):
        assert bool((torch.isclose(new, up) | torch.isclose(new, down)).all()), (
            "values other than +-eps"
        )
        share = 0.8 * 0.5 ** sum(t > mark for mark in (10, 50))
        side = min(max(round((share * shape[2] * shape[3]) ** 0.5), 1), *shape[2:])
        for i in range(shape[0]):
            changed = (old[i] != new[i]).any(0).nonzero()
            if len(changed):
                extent = changed.amax(0) - changed.amin(0) + 1
                assert bool((extent <= side).all()), (t, extent, side)
        assert bool(ball.inside(new).all())


def test_a_square_has_one_sign_per_channel() -> None:
    """Seen where the best point has other signs: within the window each channel goes one way."""
    x = torch.full((16, 3, 8, 8), 0.5)
    record, _ = play(x, 40, 0.25, accept=False)
    for old, new in zip(record.before, record.after, strict=True):
        for a, b in zip(old.flatten(0, 1), new.flatten(0, 1), strict=True):
            assert len(b[a != b].unique()) <= 1


def test_windows_reach_every_border_and_every_pixel() -> None:
    x = torch.full((64, 1, 6, 6), 0.5)
    record, _ = play(x, 120, 0.25, accept=False)
    hits = sum(
        (new != old).float().sum((0, 1))
        for old, new in zip(record.before, record.after, strict=True)
    )
    assert isinstance(hits, Tensor) and bool((hits > 0).all())
    late = sum(
        (new != old).float().sum((0, 1))
        for old, new in zip(record.before[52:], record.after[52:], strict=True)
    )
    assert isinstance(
        late, Tensor
    )  # side 3 of 6: four places each way, corners are hit by one of 16 windows
    corners = late[[0, 0, -1, -1], [0, -1, 0, -1]]
    assert float(corners.min()) > 0.5 * float(corners.max()) > 0


def test_images_have_windows_of_their_own() -> None:
    x = torch.full((16, 1, 8, 8), 0.5)
    record, _ = play(x, 80, 0.25, accept=False)
    changed = (record.after[-1] != record.before[-1]).flatten(1)
    assert len({tuple(row.tolist()) for row in changed}) > 8


def test_the_start_is_striped() -> None:
    x = torch.full((32, 3, 5, 7), 0.5)
    ball = Ball.of(Linf(), torch.full((32,), 0.1), -x, 1 - x)
    start = Square(5).init(ball, keys.mix(0, torch.arange(32))).delta
    assert torch.equal(start, start[:, :, :1].expand_as(start)), "columns of one value"
    assert torch.allclose(start.abs(), torch.full_like(start, 0.1))
    signs = Counter(start[:, :, 0].sign().flatten().tolist())
    assert abs(signs[1.0] - signs[-1.0]) < 4.5 * (32 * 3 * 7) ** 0.5


@pytest.mark.parametrize(
    ("after", "parts"),
    [(0, 1), (10, 2), (50, 4), (200, 8), (500, 16), (1000, 32), (2000, 64), (4000, 128)],
)
def test_the_share_of_pixels_is_halved_as_published(after: int, parts: int) -> None:
    """Counted on a large image: the window has round(sqrt(0.8 / parts * 64 * 64)) pixels a side."""
    x = torch.full((24, 1, 64, 64), 0.5)
    ball = Ball.of(Linf(), torch.full((24,), 0.1), -x, 1 - x)
    search, key = Square(5000), keys.mix(1, torch.arange(24))
    low = torch.full((24,), -1.0)
    state = search.init(ball, key)
    state = search.step(ball, key, state, Point(low, low, low > 0, None, (1, 0)))
    start = state.best.clone()
    expected = round((0.8 / parts * 64 * 64) ** 0.5)
    for t in (
        after,
        after + 1,
    ):  # answers number `after` + 1 and + 2 lead to proposals with the new share
        state.t.fill_(t)
        state = search.step(ball, key, state, Point(low - 1, low, low > 0, None, (1, 0)))
        extents = [_extent(a, b) for a, b in zip(start, state.delta, strict=True)]
        assert max(extents) <= expected
    assert max(extents) >= expected - 1


def _extent(a: Tensor, b: Tensor) -> int:
    changed = (a != b).any(0).nonzero()
    return int((changed.amax(0) - changed.amin(0)).max()) + 1 if len(changed) else 0


def test_only_improvements_are_accepted() -> None:
    """The best loss never falls, and each proposal differs from the best point by one window."""
    asked: list[float] = []

    def model(z: Tensor) -> Tensor:
        total = (z - 0.5).flatten(1).sum(1) * torch.linspace(1, 1, 1)
        asked.append(float(total))
        return torch.stack([torch.full_like(total, 99.0), total], 1)

    x = torch.full((1, 1, 6, 6), 0.5)
    found = Attack(Threat(Linf(), 0.1), Margin(), Square(300))(model, x, torch.zeros(1).long())
    assert len(asked) == 300
    assert float(found.score) == pytest.approx(max(asked) - 99, abs=1e-4)
    assert float((found.value > 0).float().mean()) == 1.0, "a linear loss is maximal at the corner"
    assert found.spent.tolist() == [[300, 0]]


def test_no_gradient_is_ever_taken(make_problem: Any, counted: Any) -> None:
    p = make_problem()
    model = counted(p.model)
    found = Attack(Threat(Linf(), 0.1), Margin(), Square(20))(model, p.x, p.y, run=Run(slots=3))
    assert model.backwards == 0 and int(found.spent[:, 1].sum()) == 0
