"""Max-Mahalanobis centres: their geometry, their loss, and the slope that a softmax hides."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from torchproof.adaptive.declaration import declaration
from torchproof.adaptive.defence import Material
from torchproof.adaptive.judge import Judge
from torchproof.adaptive.trial import carry_out
from torchproof.adaptive.zoo import ZOO, mahalanobis
from torchproof.adaptive.zoo.mahalanobis import DEFENCE, CentreLoss, Centres, Slopes, centres
from torchproof.core.threats import parse
from torchproof.data import load
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


@pytest.fixture(scope="module")
def made() -> Any:
    data, test = load("digits", split="train"), load("digits")
    material = Material(data.take(1000), data.subset(torch.arange(1000, 1297)), test.take(40))
    patch = pytest.MonkeyPatch()
    patch.setattr(mahalanobis, "EPOCHS", 25)
    yield material, *DEFENCE.train(material, 0)
    patch.undo()


def test_a_tiny_one_is_trained_and_says_what_it_is(made: Any) -> None:
    material, defended, base = made
    x, y = material.test.x, material.test.y
    told = declaration(defended, x, y)
    assert told.holds and told.declared == told.measured.properties
    for model in (defended, base):
        assert float((model(x).argmax(1) == y).float().mean()) > 0.5
    assert torch.equal(defended.without("centres")(x).argmax(1), defended(x).argmax(1))
    assert isinstance(base[1], nn.Linear) and ZOO["mahalanobis"] is DEFENCE


def test_the_distances_break_more_than_the_softmax(made: Any) -> None:
    material, defended, _ = made
    threat, x, y = parse("linf:0.15"), material.test.x, material.test.y
    judge = Judge(defended)
    lost = [
        int(carry_out(attempts(defended, threat, material)[0], judge, x, y, torch.arange(40)).won)
        for attempts in (DEFENCE.naive, DEFENCE.adaptive)
    ]
    assert lost[1] > lost[0]
