"""Schedules against their formulas, row by row."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from torchproof.core.schedules import (
    Constant,
    Cosine,
    EachStage,
    Linear,
    Schedule,
    Steps,
    segment,
)

SCHEDULES: dict[str, tuple[Schedule, Callable[[float], float]]] = {
    "constant": (Constant(0.3), lambda p: 0.3),
    "cosine": (Cosine(), lambda p: (1 + math.cos(math.pi * p)) / 2),
    "cosine from to": (Cosine(2.0, 0.5), lambda p: 0.5 + 0.75 * (1 + math.cos(math.pi * p))),
    "steps": (
        Steps((1.0, 0.1, 0.01), (0.6, 0.85, 1.0)),
        lambda p: 1.0 if p < 0.6 else 0.1 if p < 0.85 else 0.01,
    ),
    "linear": (Linear(), lambda p: p),
    "warm-up": (Linear(0.0, 6.0, 0.25), lambda p: min(p / 0.25, 1.0) * 6),
    "each stage": (
        EachStage(Linear(1.0, 0.0), (0.25, 1.0)),
        lambda p: 1 - p / 0.25 if p < 0.25 else 1 - (p - 0.25) / 0.75,
    ),
    "one long stage": (EachStage(Cosine(), (1.0, 1.0)), lambda p: (1 + math.cos(math.pi * p)) / 2),
}


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_schedules_follow_their_formulas(name: str, dtype: torch.dtype) -> None:
    schedule, formula = SCHEDULES[name]
    progress = (torch.arange(21) / 20).to(dtype)
    values = schedule(progress)
    assert values.dtype == dtype and values.shape == progress.shape
    expected = torch.tensor([formula(k / 20) for k in range(21)], dtype=dtype)
    assert torch.allclose(values, expected, atol=1e-6)
    assert schedule(progress[:0]).shape == (0,)


@pytest.mark.parametrize("steps", [10, 20, 40, 100, 1000])
def test_a_stage_ends_at_its_step_whatever_the_rounding(steps: int) -> None:
    """60 of 100 steps belong to the first stage, also where 60 / 100 rounds below 0.6."""
    for tenth in range(1, 10):
        index = segment((torch.arange(steps) / steps).float(), (tenth / 10, 1.0))
        assert int((index == 0).sum()) == steps * tenth // 10


def test_progress_one_belongs_to_the_last_stage() -> None:
    assert segment(torch.ones(1), (0.3, 1.0)).tolist() == [1]
    assert segment(torch.zeros(1), (1.0,)).tolist() == [0]
