"""Mixup inference: the mean over mixtures against a naive loop, and the row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from torchproof.adaptive.defence import Material
from torchproof.adaptive.zoo.mixup_inference import MixupInference, pool_of


@pytest.fixture
def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).requires_grad_(False)


@pytest.fixture(scope="module")
def material(made_row: Callable[..., Any]) -> Material:
    found: Material = made_row("mixup-inference").material
    return found


@pytest.mark.slow
def test_the_pool_holds_each_class(material: Material) -> None:
    pool = pool_of(material.train, 7)
    assert pool.shape == (10, 7, 1, 8, 8)
    for k in range(10):
        rows = [n for n in range(len(material.train)) if int(material.train.y[n]) == k][:7]
        assert torch.equal(pool[k], material.train.x[rows])


def test_others_are_of_other_classes(linear: nn.Module) -> None:
    pool = torch.arange(10.0)[:, None, None, None, None].expand(10, 3, 1, 8, 8)
    made = MixupInference(linear, pool, samples=200)
    said = torch.tensor([0, 4, 9])
    drawn = made.drawn(said)[:, :, 0, 0, 0]
    assert drawn.shape == (200, 3)
    for n, label in enumerate(said.tolist()):
        assert set(drawn[:, n].tolist()) == set(map(float, range(10))) - {float(label)}


def test_the_answer_is_the_mean_over_the_mixtures(linear: nn.Module, material: Material) -> None:
    made = MixupInference(linear, pool_of(material.train), ratio=0.7, samples=6)
    x = material.test.x[:3]
    torch.manual_seed(3)
    found = made(x)
    torch.manual_seed(3)
    others = made.drawn(linear(x).argmax(1))
    for n in range(3):
        mean = torch.zeros(10)
        for s in range(6):
            mean += torch.softmax(linear((0.7 * x[n] + 0.3 * others[s, n])[None])[0], 0) / 6
        torch.testing.assert_close(found[n].exp(), mean)


def test_without_the_mixtures_it_is_the_network(made_row: Callable[..., Any]) -> None:
    material, defended, base = made_row("mixup-inference")
    x = material.test.x
    assert torch.equal(defended.without("mixup")(x), base(x))
