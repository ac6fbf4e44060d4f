"""Training sets with planted outliers: what is in them, and what is in none twice."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from torchproof.anomaly.contamination import Contaminated, Sizes, contaminate, shrunk
from torchproof.core.errors import InputError

SIZES = Sizes(train=38, held=5, test=6)


def numbered(n: int, start: float) -> Tensor:
    """Images that can be told apart: each holds its own number."""
    return (start + torch.arange(n) / 1000).reshape(n, 1, 1, 1).expand(n, 1, 2, 2)


NORMAL, OUTLIERS = numbered(60, 0.0), numbered(30, 0.5)


def numbers(x: Tensor) -> list[float]:
    return [round(float(v), 4) for v in x[:, 0, 0, 0]]


@pytest.mark.parametrize(("share", "planted"), [(0.0, 0), (0.05, 2), (0.5, 38)])
def test_the_share_is_of_all_training_images(share: float, planted: int) -> None:
    outliers = numbered(50, 0.5)
    case = contaminate(NORMAL, outliers, share, SIZES)
    assert case.planted == planted and len(case.x) == 38 + planted
    assert case.outlier.tolist() == [value >= 0.5 for value in numbers(case.x)]
    assert case.anomalous.tolist() == [value >= 0.5 for value in numbers(case.test)]
    assert len(case.held) == 5 and len(case.test) == 12 and int(case.anomalous.sum()) == 6


def test_no_image_is_in_two_parts() -> None:
    case = contaminate(NORMAL, OUTLIERS, 0.2, SIZES, seed=3)
    every = numbers(case.x) + numbers(case.held) + numbers(case.test)
    assert len(every) == len(set(every))


def test_more_contamination_only_adds_outliers() -> None:
    few, many = (contaminate(NORMAL, OUTLIERS, share, SIZES, seed=1) for share in (0.05, 0.2))
    assert numbers(many.x)[: len(few.x)] == numbers(few.x)
    assert torch.equal(few.test, many.test) and torch.equal(few.held, many.held)


def test_the_seed_decides() -> None:
    def made(seed: int) -> Contaminated:
        return contaminate(NORMAL, OUTLIERS, 0.1, SIZES, seed)

    assert torch.equal(made(0).x, made(0).x) and not torch.equal(made(0).x, made(1).x)


def test_what_cannot_be_meant() -> None:
    with pytest.raises(InputError, match="contamination"):
        contaminate(NORMAL, OUTLIERS, 0.6, SIZES)
    with pytest.raises(InputError, match="at least 49"):
        contaminate(NORMAL[:48], OUTLIERS, 0.0, SIZES)
    with pytest.raises(InputError, match="shape"):
        contaminate(NORMAL, OUTLIERS[:, :, :1], 0.1, SIZES)
    with pytest.raises(InputError, match="at least 2"):
        Sizes(5, 1, 5)


def test_shrinking_averages_areas() -> None:
    x = torch.rand(3, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(shrunk(x, 4), avg_pool2d(x, 2))
    assert shrunk(x, 8) is x
    with pytest.raises(InputError, match="size of 9"):
        shrunk(x, 9)
