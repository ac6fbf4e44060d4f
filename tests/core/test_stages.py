"""Objectives in stages: each row is asked by the stage of its own step."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from torchproof.core.errors import InputError
from torchproof.core.objectives import (
    DLR,
    Alternating,
    CrossEntropy,
    Goal,
    Hypocritical,
    Margin,
    Objective,
)

# ---- stages


@pytest.mark.parametrize(
    ("until", "steps", "expected"),
    [
        ((), 6, "aabbcc"),
        ((), 100, "a" * 34 + "b" * 33 + "c" * 33),  # stage i runs while step / steps < (i + 1) / 3
        ((0.2, 0.4, 1.0), 10, "aabbcccccc"),
        ((0.5, 0.5, 1.0), 4, "aacc"),
        ((0.0, 0.5, 1.0), 4, "bbcc"),
        ((0.1, 0.7, 1.0), 10, "abbbbbbccc"),
    ],
)
def test_stages_switch_at_the_right_step_of_each_row(
    until: tuple[float, ...], steps: int, expected: str
) -> None:
    """Rows are at different steps: each is asked by its own stage, in float32 as in float64."""
    stages: dict[str, Objective] = {"a": CrossEntropy(), "b": Margin(), "c": DLR()}
    objective = Alternating(tuple(stages.values()), until)
    z = torch.tensor([[0.3, -1.2, 2.0, 0.9]]).double().expand(steps, 4)
    y = torch.tensor([1]).expand(steps)
    for dtype in (torch.float32, torch.float64):
        goal = Goal(y, y, torch.arange(steps).to(dtype) / steps)
        loss = objective.loss(z, goal)
        by = {name: float(stage.loss(z, goal)[0]) for name, stage in stages.items()}
        assert "".join(min(by, key=lambda n: abs(by[n] - v)) for v in loss.tolist()) == expected
        assert torch.equal(objective.score(z, goal), Margin().loss(z, goal))


@pytest.mark.parametrize("steps", [2, 3, 7, 10, 49, 50, 100, 1000])
@pytest.mark.parametrize("stages", [2, 3, 5])
def test_equal_shares_whatever_the_rounding(stages: int, steps: int) -> None:
    """Step k belongs to stage floor(k * stages / steps), computed in whole numbers."""
    objective = Alternating(tuple(Hypocritical(_Constant(float(i))) for i in range(stages)))
    goal = Goal(torch.zeros(steps).long(), torch.zeros(steps).long(), torch.arange(steps) / steps)
    found = -objective.loss(torch.zeros(steps, 2), goal)
    assert found.tolist() == [k * stages // steps for k in range(steps)]


@dataclass(frozen=True)
class _Constant(Objective):
    value: float

    def loss(self, out: Tensor, goal: Goal) -> Tensor:
        return torch.full((len(out),), self.value)

    def won(self, out: Tensor, goal: Goal) -> Tensor:
        return torch.zeros(len(out), dtype=torch.bool)


def test_the_last_answer_belongs_to_the_last_stage() -> None:
    objective = Alternating((_Constant(1.0), _Constant(2.0)))
    goal = Goal(torch.zeros(1).long(), torch.zeros(1).long(), torch.ones(1))
    assert float(objective.loss(torch.zeros(1, 2), goal)) == 2.0


@pytest.mark.parametrize(
    ("stages", "until"),
    [
        ((), ()),
        ((Margin(),), (0.5,)),
        ((Margin(), DLR()), (1.0,)),
        ((Margin(), DLR()), (0.6, 0.5)),
        ((Margin(), DLR()), (0.5, 0.9)),
        ((Margin(), DLR()), (0.2, 0.5, 1.0)),
    ],
)
def test_impossible_stages_are_refused(
    stages: tuple[Objective, ...], until: tuple[float, ...]
) -> None:
    with pytest.raises(InputError):
        Alternating(stages, until)
