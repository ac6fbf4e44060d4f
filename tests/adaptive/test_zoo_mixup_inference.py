"""Mixup inference: the mean over mixtures against a naive loop, and the row."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from torchproof.adaptive.declaration import declaration
from torchproof.adaptive.defence import Material
from torchproof.adaptive.judge import Judge
from torchproof.adaptive.trial import carry_out
from torchproof.adaptive.zoo.mixup_inference import DEFENCE, MixupInference, pool_of
from torchproof.core.threats import parse
from torchproof.data import load


@pytest.fixture(scope="module")
def material() -> Material:
    data, test = load("digits", split="train"), load("digits")
    return Material(data.take(1000), data.subset(range(1000, 1100)), test.take(20))


@pytest.fixture(scope="module")
def row(material: Material) -> Any:
    return DEFENCE.train(material, 0)


@pytest.fixture
def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).requires_grad_(False)


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


def test_the_row_is_what_it_declares_and_breaks(row: Any, material: Material) -> None:
    defended, base = row
    x, y = material.test.x, material.test.y
    assert declaration(defended, x, y).false == () and declaration(base, x, y).false == ()
    assert torch.equal(defended.without("mixup")(x), base(x))
    judge, ids, threat = Judge(defended, None, 11), torch.arange(len(x)), parse("linf:0.2")
    assert float(judge.clean(x, y).float().mean()) > 0.4
    naive = carry_out(DEFENCE.naive(defended, threat, material)[0], judge, x, y, ids)
    hand = carry_out(DEFENCE.adaptive(defended, threat, material)[0], judge, x, y, ids)
    assert hand.won >= naive.won
