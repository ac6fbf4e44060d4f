"""Ensemble diversity: the regulariser against naive computations, and the row."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from torchproof.adaptive.declaration import declaration
from torchproof.adaptive.defence import Material
from torchproof.adaptive.judge import Judge
from torchproof.adaptive.trial import carry_out
from torchproof.adaptive.zoo import ensemble_diversity
from torchproof.adaptive.zoo.ensemble_diversity import (
    DEFENCE,
    MeanProbabilities,
    diversity,
    loss,
)
from torchproof.core.threats import parse
from torchproof.data import load


@pytest.fixture(scope="module")
def material() -> Material:
    data, test = load("digits", split="train"), load("digits")
    return Material(data.take(1000), data.subset(range(1000, 1100)), test.take(16))


@pytest.fixture(scope="module")
def row(material: Material) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ensemble_diversity, "EPOCHS", 16)  # the set is small
        return DEFENCE.train(material, 0)


@pytest.fixture
def logits() -> Any:
    return torch.randn(3, 4, 10, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_diversity_is_the_squared_volume_of_the_wrong_classes(logits: Any) -> None:
    y = torch.tensor([0, 3, 9, 5])
    found = diversity(logits.softmax(2), y)
    for n in range(4):
        rows = []
        for m in range(3):
            p = np.exp(logits[m, n].numpy())
            wrong = np.delete(p / p.sum(), int(y[n]))
            rows.append(wrong / np.linalg.norm(wrong))
        volume = np.prod(np.linalg.svd(np.stack(rows), compute_uv=False)) ** 2
        assert float(found[n]) == pytest.approx(math.log(volume), rel=1e-3)


def test_the_loss_is_the_sum_of_its_three_parts(logits: Any) -> None:
    y = torch.tensor([0, 3, 9, 5])
    mean = logits.softmax(2).mean(0)
    entropy = torch.distributions.Categorical(mean).entropy().mean()
    members = sum(F.cross_entropy(z, y) for z in logits)
    expected = members - 2 * entropy - 0.5 * diversity(logits.softmax(2), y).mean()
    torch.testing.assert_close(loss(logits, y, 2.0, 0.5), expected)
    torch.testing.assert_close(loss(logits, y, 0.0, 0.0), members)
    torch.testing.assert_close(MeanProbabilities()(logits).exp(), mean)


def test_the_row_is_what_it_declares(row: Any, material: Material) -> None:
    defended, base = row
    x, y = material.test.x, material.test.y
    assert declaration(defended, x, y).false == () and declaration(base, x, y).false == ()
    # the regulariser makes the members less sure, and more different
    volumes = []
    for made in row:
        p = torch.stack([member(x) for member in made.networks]).softmax(2)
        volumes.append(float(diversity(p, y).mean()))
        assert float(Judge(made).clean(x, y).float().mean()) > 0.7
    assert volumes[0] > volumes[1] + 1


def test_more_steps_break_more(row: Any, material: Material) -> None:
    defended, _ = row
    x, y, threat = material.test.x, material.test.y, parse("linf:0.1")
    judge, ids = Judge(defended), torch.arange(len(x))
    naive = carry_out(DEFENCE.naive(defended, threat, material)[0], judge, x, y, ids)
    hand = carry_out(DEFENCE.adaptive(defended, threat, material)[0], judge, x, y, ids)
    assert hand.won >= naive.won > 0
