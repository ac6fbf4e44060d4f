"""Max-Mahalanobis centres: their geometry, their loss, and the slope that a softmax hides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from torchproof.adaptive.zoo.mahalanobis import CentreLoss, Centres, Slopes, centres
from torchproof.train.method import Batch


@pytest.mark.parametrize(("classes", "features"), [(3, 2), (10, 9), (10, 64)])
def test_the_centres_are_the_corners_of_a_simplex(classes: int, features: int) -> None:
    mu = centres(classes, features, 7.0)
    assert mu.shape == (classes, features)
    wanted = torch.full((classes, classes), -7.0 / (classes - 1)).fill_diagonal_(7.0)
    torch.testing.assert_close(mu @ mu.T, wanted, atol=1e-4, rtol=1e-4)


def test_distances_loss_and_slopes() -> None:
    z = torch.randn(6, 12, generator=torch.Generator().manual_seed(1))
    head, y = Centres(10, 12, 5.0), torch.tensor([0, 9, 3, 3, 1, 2])
    logits = head(z)
    for i in range(6):
        for k in range(10):
            far = sum(float(a - b) ** 2 for a, b in zip(z[i], head.mu[k], strict=True))
            assert abs(float(logits[i, k]) + far) < 1e-3
    batch = Batch(z, y, torch.arange(6), 0.0, 0)
    expected = torch.stack([(z[i] - head.mu[y[i]]).square().sum() / 2 for i in range(6)])
    torch.testing.assert_close(CentreLoss().losses(head, batch), expected)
    # the same differences of logits, up to the one scale
    slopes = Slopes(head)(z)
    torch.testing.assert_close(
        (logits - logits[:, :1]) / 10.0, slopes - slopes[:, :1], atol=1e-4, rtol=1e-4
    )


def test_without_the_softmax_the_classes_are_the_same(made_row: Callable[..., Any]) -> None:
    material, defended, base = made_row("mahalanobis")
    x = material.test.x
    assert torch.equal(defended.without("centres")(x).argmax(1), defended(x).argmax(1))
    assert isinstance(base[1], nn.Linear)
