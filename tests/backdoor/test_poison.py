"""Poisoned data sets: which rows, what becomes of them, what is refused."""

from __future__ import annotations

import pytest
import torch

from torchproof.backdoor.poison import poisoned, poisoned_rows
from torchproof.backdoor.triggers import Blend, Patch
from torchproof.core.errors import InputError
from torchproof.data import Dataset, load
from torchproof.data.dataset import fingerprint


@pytest.fixture(scope="module")
def data() -> Dataset:
    return load("digits", split="train")


def test_a_share_is_stamped_and_relabelled_and_the_rest_is_left(data: Dataset) -> None:
    x, y = data.x.clone(), data.y.clone()
    found, rows = poisoned(data, Patch(), 7, 0.1), poisoned_rows(data.y, 7, 0.1)
    assert len(rows) == round(0.1 * len(data)) and len(set(rows.tolist())) == len(rows)
    assert bool((data.y[rows] != 7).all()) and bool((found.y[rows] == 7).all())
    assert torch.equal(found.x[rows], Patch()(data.x[rows]))
    rest = torch.ones(len(data), dtype=torch.bool)
    rest[rows] = False
    assert torch.equal(found.x[rest], data.x[rest]) and torch.equal(found.y[rest], data.y[rest])
    assert torch.equal(data.x, x) and torch.equal(data.y, y)
    assert found.sha256 != data.sha256 and "130 images stamped as 7" in found.name


def test_the_choice_is_keyed_and_spread_over_the_classes(data: Dataset) -> None:
    first, again, other = (poisoned_rows(data.y, 7, 0.3, seed) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert data.y[first].bincount(minlength=10).count_nonzero() == 9
    # what is chosen at a small share is chosen at a larger one too
    assert set(poisoned_rows(data.y, 7, 0.1).tolist()) <= set(first.tolist())


def test_bytes_stay_bytes_only_where_the_trigger_keeps_them(data: Dataset) -> None:
    stamped, mixed = poisoned(data, Patch(), 7), poisoned(data, Blend(0.13), 7)
    assert stamped.levels == data.levels and mixed.levels == 0
    assert stamped.sha256 == fingerprint(stamped.x, stamped.y, data.levels)
    assert poisoned(data, Patch(value=0.77), 7).levels == 0


@pytest.mark.parametrize("target", [-1, 10, True, 2.0])
def test_a_target_that_is_no_class(data: Dataset, target: int) -> None:
    with pytest.raises(InputError, match="a class from 0 to 9"):
        poisoned(data, Patch(), target)


@pytest.mark.parametrize("share", [0.0, -0.1, 1.1, float("nan")])
def test_a_share_that_is_none(data: Dataset, share: float) -> None:
    with pytest.raises(InputError, match="share"):
        poisoned(data, Patch(), 7, share)


def test_more_than_there_are_of_other_classes(data: Dataset) -> None:
    with pytest.raises(InputError, match=r"not of class 7.*smaller share"):
        poisoned(data, Patch(), 7, 1.0)
    sevens = data.subset((data.y == 7).nonzero()[:, 0])
    with pytest.raises(InputError, match="0 not of class 7"):
        poisoned(sevens, Patch(), 7)
