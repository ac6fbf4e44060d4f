"""Ensemble diversity: the regulariser against naive computations, and the row."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from torchproof.adaptive.zoo.ensemble_diversity import (
    MeanProbabilities,
    diversity,
    loss,
)


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


@pytest.mark.slow
def test_the_regulariser_makes_the_members_more_different(made_row: Callable[..., Any]) -> None:
    material, *both = made_row("ensemble-diversity")
    x, y = material.test.x, material.test.y
    volumes = []
    for made in both:
        p = torch.stack([member(x) for member in made.networks]).softmax(2)
        volumes.append(float(diversity(p, y).mean()))
    assert volumes[0] > volumes[1] + 1
