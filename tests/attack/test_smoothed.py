"""Smoothed: the value of the point, the mean gradient around it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from torchproof.attack.combine import Attack
from torchproof.attack.pgd import PGD
from torchproof.attack.run import Run
from torchproof.attack.smoothed import Smoothed
from torchproof.attack.starts import Zero
from torchproof.core.errors import InputError
from torchproof.core.norms import Linf
from torchproof.core.objectives import Margin
from torchproof.core.threats import Threat


def rippled(x: Tensor) -> Tensor:
    """Two classes of the mean pixel, with ripples whose slope outweighs the trend everywhere that
    steps of 0.01 land.
    """
    turns = 2 * math.pi / 0.01
    mean = (x - 3 / turns * torch.sin(turns * x)).flatten(1).mean(1)
    return torch.stack([0 * mean, 10 * (mean - 0.55)], 1)


def test_smoothing_finds_the_trend_behind_ripples() -> None:
    x, y = torch.full((3, 1, 8, 8), 0.5, dtype=torch.float64), torch.zeros(3, dtype=torch.int64)
    plain = Attack(Threat(Linf(), 0.1), Margin(), PGD(10, length=0.1, start=Zero()))
    # steps of eps / 10 = 0.01 stay on a lattice where the slope is 1 - 3 < 0: always the wrong way
    assert not plain(rippled, x, y).lost.any()
    found = replace(plain, wrap=lambda oracle: Smoothed(oracle, 16))(rippled, x, y)
    assert found.lost.all()


def test_counts_and_independence_of_company() -> None:
    x, y = torch.full((3, 1, 4, 4), 0.4, dtype=torch.float64), torch.zeros(3, dtype=torch.int64)
    x[1] += 0.03
    attack = Attack(Threat(Linf(), 0.01), Margin(), PGD(4), wrap=lambda o: Smoothed(o, 5))
    found = attack(rippled, x, y)
    assert found.spent.tolist() == [[4 * 6 + 1, 4 * 5]] * 3
    alone = attack(rippled, x[1:2], y[1:2], run=Run(ids=torch.tensor([1])))
    torch.testing.assert_close(torch.as_tensor(alone.value)[0], torch.as_tensor(found.value)[1])


@pytest.mark.parametrize(("samples", "reach"), [(0, 0.5), (3, 0.0), (3, 1.5)])
def test_refusals(samples: int, reach: float) -> None:
    with pytest.raises(InputError):
        Attack(Threat(Linf(), 0.1), Margin(), PGD(2), wrap=lambda o: Smoothed(o, samples, reach))(
            rippled, torch.zeros(1, 1, 2, 2), torch.zeros(1).long()
        )
