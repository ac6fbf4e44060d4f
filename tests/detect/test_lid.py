"""Local intrinsic dimensionality: of balls, beside naive loops, at equal points."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from torchproof.core.errors import InputError
from torchproof.detect.detector import Clean
from torchproof.detect.lid import LID, local_dimension


def ball(dimension: int, rows: int, seed: int) -> Tensor:
    """(rows, dimension) points, evenly over the unit ball."""
    draws = np.random.default_rng(seed)
    way = draws.normal(size=(rows, dimension))
    way /= np.linalg.norm(way, axis=1, keepdims=True)
    return torch.from_numpy(way * draws.random((rows, 1)) ** (1 / dimension))


@pytest.mark.parametrize("dimension", [2, 5, 10])
def test_dimension_of_a_ball(dimension: int) -> None:
    found = local_dimension(ball(dimension, 1000, 1), ball(dimension, 1000, 0), k=20)
    assert float(found.mean()) == pytest.approx(dimension, rel=0.15)


def test_law_at_the_centre_of_a_ball() -> None:
    """-log(r_i / r_k) are k - 1 exponential numbers of mean 1 / d there, and a zero: the mean of
    the estimate is d k / (k - 2), of its inverse (k - 1) / (k d).
    """
    d, k = 5, 20
    centre = torch.zeros(1, d, dtype=torch.float64)
    found = torch.cat([local_dimension(centre, ball(d, 200, seed), k) for seed in range(1000)])
    spread = 4 / math.sqrt(1000) / math.sqrt(k - 2)
    assert float(found.mean()) == pytest.approx(d * k / (k - 2), rel=spread)
    assert float((1 / found).mean()) == pytest.approx((k - 1) / (k * d), rel=spread)


def test_equal_to_a_naive_loop() -> None:
    x, points = ball(3, 9, 0) * 7, ball(3, 40, 1) * 7
    expected = []
    for row in x.numpy():
        r = np.sort(np.linalg.norm(points.numpy() - row, axis=1))[:12]
        expected.append(-1 / np.mean(np.log(r / r[-1])))
    np.testing.assert_allclose(local_dimension(x, points, 12), expected, rtol=1e-9)


def test_at_points_themselves_all_is_finite() -> None:
    points = torch.cat([ball(4, 30, 0), ball(4, 1, 3).expand(30, 4)])
    asked = torch.cat([points[:3], points[-1:]]).requires_grad_()
    found = local_dimension(asked, points, 20)
    (slope,) = torch.autograd.grad(found.sum(), asked)
    assert bool(found.isfinite().all()) and bool(slope.isfinite().all())
    without = local_dimension(asked[:1].detach(), points[1:], 19)  # the same but for the point
    log = math.log(1e6)
    found = found.detach()
    assert float(1 / found[0]) == pytest.approx((19 / float(without) + log) / 20, rel=1e-6)
    apart = torch.eye(30, dtype=torch.float64)  # all as far from 0
    assert float(local_dimension(torch.zeros(1, 30), apart, 20)) == pytest.approx(1e4)


def test_gradient() -> None:
    points = ball(4, 30, 0)
    asked = ball(4, 3, 1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: local_dimension(x, points, 10), (asked,))


def test_evidence_is_that_of_the_layers(classifier: nn.Module, images: Any) -> None:
    data = Clean(images.fit.x, images.fit.y, images.fit.adversarial)
    fitted = LID(k=7, batch=50, layers=("act1", "fc1")).fit(classifier, data)
    x = images.test.x[:6]
    first = classifier.act1(classifier.conv1(x))
    second = classifier.fc1(classifier.act2(classifier.conv2(first)).flatten(1))
    stages = [x, first, second, classifier.fc2(classifier.act3(second))]
    expected = [
        local_dimension(stage.detach().flatten(1), fitted.get_buffer(f"batch{i}"), 7)
        for i, stage in enumerate(stages)
    ]
    torch.testing.assert_close(fitted.evidence(x), torch.stack(expected, 1), rtol=1e-4, atol=0)


@pytest.mark.slow
def test_the_batch_teaches_nothing_else(classifier: nn.Module, images: Any) -> None:
    """Its images, and what was made of them, are not among those that teach the regression."""
    data = Clean(images.fit.x, images.fit.y, images.fit.adversarial)
    batch = LID().fit(classifier, data).get_buffer("batch0")
    inside = (torch.cdist(data.x.flatten(1), batch) == 0).any(1)
    assert int(inside.sum()) == len(batch) == 100
    assert data.adversarial is not None
    spoilt = torch.where(inside.reshape(-1, 1, 1, 1), 0.5, data.adversarial)
    fitted = LID().fit(classifier, data)
    again = LID().fit(classifier, Clean(data.x, data.y, spoilt))
    assert torch.equal(fitted.logistic.weight, again.logistic.weight)


def test_refusals(classifier: nn.Module, images: Any) -> None:
    with pytest.raises(InputError, match="2 <= k <= batch"):
        LID(k=30, batch=20)
    few = Clean(images.fit.x[:100], images.fit.y[:100], images.fit.adversarial[:100])
    with pytest.raises(InputError, match="more than the 100"):
        LID().fit(classifier, few)
