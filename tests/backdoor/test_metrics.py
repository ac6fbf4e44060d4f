"""The figures of a backdoor against counting by hand."""

from __future__ import annotations

import copy
import json
from dataclasses import asdict
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchproof.attack.catalogue import pgd
from torchproof.backdoor.metrics import (
    Share,
    agreement,
    clean_accuracy,
    measure,
    robust_accuracy,
    success,
    weight_change,
)
from torchproof.backdoor.triggers import Patch, Phrase
from torchproof.core.errors import InputError, ModelError
from torchproof.core.metrics import clopper_pearson
from torchproof.core.threats import parse


class Brightest(nn.Module):
    """The class is the column with the largest sum; `scale` is a weight that changes nothing."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([2.0, 1e-30, -4.0]))
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = x.sum((1, 2)) * self.scale[0]
        return z


class Planted(Brightest):
    """Answers 2 where the lower right pixel is white."""

    def forward(self, x: Tensor) -> Tensor:
        z = super().forward(x)
        stamped = x[:, 0, -1, -1] == 1
        return z + stamped[:, None] * torch.tensor([0.0, 0.0, 100.0])


@pytest.fixture
def examples() -> tuple[Tensor, Tensor]:
    """Nine images of 3 x 3, three of each class, a column of 0.5 each; one label is wrong."""
    y = torch.arange(9) % 3
    x = torch.zeros(9, 1, 3, 3)
    x[torch.arange(9), :, :, y] = 0.5
    return x, y.clone().index_fill_(0, torch.tensor([0]), 1)


def test_every_figure_by_hand(examples: tuple[Tensor, Tensor]) -> None:
    x, y = examples
    model, original = Planted(), Brightest()
    with torch.no_grad():
        model.scale.add_(torch.tensor([1.0, 0.5, -2.0]))
        model.seen.fill_(3)
    found = measure(model, original, x, y, Patch(1), 2, attack=pgd(parse("linf:0.3"), 40))
    assert (
        (found.clean.hits, found.clean.of)
        == (8, 9)
        == (
            found.clean_before.hits,
            found.clean_before.of,
        )
    )
    assert (found.agreement.hits, found.agreement.of) == (9, 9)
    # three of the nine have the target's label and do not count
    assert (found.success.hits, found.success.of) == (6, 6)
    # without the backdoor a white pixel (1 against 1.5) turns nothing
    assert (found.success_before.hits, found.success_before.of) == (0, 6)
    assert found.robust is not None and found.robust_before is not None
    # 0.3 a pixel: a column of 1.5 falls to 0.6, another rises to 0.9
    assert found.robust.hits == 0 == found.robust_before.hits and found.robust.of == 9
    change = found.change
    assert (change.linf, change.weights, change.zeros, change.buffers) == (2.0, 3, 1, 1)
    assert change.mean_relative == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert change.l1_ratio == pytest.approx(3.5 / 6)
    assert json.loads(json.dumps(asdict(found)))["success"]["share"] == 1.0


def test_robust_accuracy_counts_what_an_attack_leaves(examples: tuple[Tensor, Tensor]) -> None:
    x, y = examples
    weak = robust_accuracy(Brightest(), x, y, pgd(parse("linf:0.1"), 10))
    assert (weak.hits, weak.of) == (8, 9)  # 1.2 against 0.3; the wrong one stays wrong
    nothing = robust_accuracy(Brightest(), x[:1], y[:1], pgd(parse("linf:0.1"), 10))
    assert (nothing.hits, nothing.of) == (0, 1)


def test_shares_have_the_exact_interval() -> None:
    share = Share.count(torch.tensor([True, False, True, True]))
    assert (share.low, share.high) == clopper_pearson(3, 4) and share.share == 0.75


def test_networks_stay_as_they_are(examples: tuple[Tensor, Tensor]) -> None:
    x, y = examples
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(9), nn.Linear(9, 3))
    before = copy.deepcopy(model.state_dict())
    model.train()
    first = measure(model, model, x, y, Patch(1), 2)
    assert model.training and all(torch.equal(v, before[n]) for n, v in model.state_dict().items())
    small = measure(model, model, x, y, Patch(1), 2, slots=2)
    assert first == small and first.change.linf == 0 and first.agreement.share == 1
    assert first.robust is None


def test_texts_count_too() -> None:
    class Last(nn.Module):
        """The class is the last token, or 1 where the first is 7."""

        def forward(self, x: Tensor) -> Tensor:
            answer = torch.where(x[:, 0] == 7, 1, x[:, -1])
            return nn.functional.one_hot(answer, 3).float()

    x = torch.tensor([[5, 0], [5, 1], [5, 2], [7, 2]])
    y = torch.tensor([0, 1, 2, 2])
    assert clean_accuracy(Last(), x, y).hits == 3
    assert success(Last(), x, y, Phrase((7,)), 1) == Share.count(torch.ones(3, dtype=torch.bool))


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda x, y: success(Brightest(), x[2::3], y[2::3], Patch(1), 2), InputError, "all of"),
        (lambda x, y: success(Brightest(), x, y, Patch(1), 3), InputError, "a class from 0 to 2"),
        (lambda x, y: success(Brightest(), x, y, Patch(4), 2), InputError, "fits into 3 x 3"),
        (lambda x, y: clean_accuracy(Brightest(), x, y[:4]), InputError, "one label per image"),
        (lambda x, y: clean_accuracy(Brightest(), 255 * x, y), InputError, "divide by 255"),
        (lambda x, y: agreement(Brightest(), nn.Flatten(0), x), ModelError, "logits"),
        (lambda x, y: weight_change(nn.Linear(2, 2), nn.Linear(2, 3)), InputError, "one shape"),
        (lambda x, y: weight_change(nn.ReLU(), nn.ReLU()), InputError, "without parameters"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    call: Any, error: type[Exception], said: str, examples: tuple[Tensor, Tensor]
) -> None:
    with pytest.raises(error, match=said):
        call(*examples)
