"""EMPIR: quantisers and votes against naive computations, and the row."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import nn

from torchproof.adaptive.zoo.empir import Coarse, Quantiser, Vote


def test_the_quantiser_rounds_to_the_nearest_level() -> None:
    x = torch.linspace(-0.5, 1.5, 101)
    made = Quantiser(2).eval()
    levels = [0.0, 1 / 3, 2 / 3, 1.0]
    for value, found in zip(x.tolist(), made(x).tolist(), strict=True):
        assert found == pytest.approx(min(levels, key=lambda level: abs(level - value)))


def test_rounding_is_trained_through_and_not_attacked_through() -> None:
    x = torch.tensor([-0.2, 0.1, 0.6, 1.3], requires_grad=True)
    for training, slope in ((True, [0.0, 1.0, 1.0, 0.0]), (False, [0.0] * 4)):
        made = Quantiser(2).train(training)
        (grad,) = torch.autograd.grad(made(x).sum(), [x])
        assert grad.tolist() == slope


def test_coarse_weights_have_few_values() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(20, 7)
    made = Coarse(layer, 2)
    assert len(made.weight.unique()) <= 4
    x = torch.randn(3, 20)
    torch.testing.assert_close(made(x), x @ made.weight.T + layer.bias)
    conv = Coarse(nn.Conv2d(2, 3, 3, stride=2, padding=1), 2)
    assert conv(torch.randn(1, 2, 8, 8)).shape == (1, 3, 4, 4)


def test_votes_are_counted_and_the_first_decides_ties() -> None:
    answers = torch.randn(3, 50, 4, generator=torch.Generator().manual_seed(0))
    found = Vote()(answers).argmax(1)
    for n in range(50):
        said = [int(answers[m, n].argmax()) for m in range(3)]
        (top, count), *_ = Counter(said).most_common()
        assert int(found[n]) == (top if count > 1 else said[0])
