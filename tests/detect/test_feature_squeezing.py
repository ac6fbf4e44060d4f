"""Feature squeezing against numpy and scipy, and against attacks that know it."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import median_filter
from scipy.special import softmax
from torch import nn

from torchproof.core.errors import InputError, ModelError
from torchproof.core.objectives import Goal
from torchproof.detect.detector import Clean
from torchproof.detect.feature_squeezing import FeatureSqueezing, best_squeezers
from torchproof.detect.parts.every_view import EveryView
from torchproof.detect.parts.squeezers import (
    CIFAR10,
    IMAGENET,
    MNIST,
    BitDepth,
    Median,
)


@pytest.fixture(scope="module")
def fitted(classifier: nn.Module, images: Any) -> Any:
    return FeatureSqueezing().fit(classifier, Clean(images.fit.x, images.fit.y))


@torch.no_grad()
def test_score_equals_numpy(fitted: Any, classifier: nn.Module, images: Any) -> None:
    x = images.test.adversarial[:40]
    squeezed = (np.rint(x.numpy()), median_filter(x.numpy(), size=(1, 1, 2, 2), mode="reflect"))
    p = softmax(classifier(x).double().numpy(), 1)
    others = [softmax(classifier(torch.from_numpy(q)).double().numpy(), 1) for q in squeezed]
    expected = np.stack([np.abs(p - q).sum(1) for q in others], 1)
    assert np.allclose(fitted.parts(x).numpy(), expected, atol=1e-5)
    assert np.allclose(fitted.score(x).numpy(), expected.max(1), atol=1e-5)
    assert expected.max() > 1


def test_best_sets_of_the_paper() -> None:
    assert best_squeezers(torch.zeros(1, 1, 28, 28)) == MNIST
    assert best_squeezers(torch.zeros(1, 3, 32, 32)) == CIFAR10
    assert best_squeezers(torch.zeros(1, 3, 224, 224)) == IMAGENET


def test_gradient_of_the_median_is_exact(classifier: nn.Module, images: Any) -> None:
    model = copy.deepcopy(classifier).double()
    fitted = FeatureSqueezing((Median(2), Median(3))).fit(model, Clean(images.fit.x, images.fit.y))
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(3, 1, 8, 8, generator=generator, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(fitted, (x,), eps=1e-7, atol=1e-5)


def test_views_are_what_features_hold(fitted: Any, classifier: nn.Module, images: Any) -> None:
    x = images.test.x[:5]
    features = fitted.features(x)
    assert features.shape == (5, 30)
    assert torch.equal(features[:, :10], classifier(x))
    assert torch.equal(features[:, 20:], classifier(Median(2)(x)))


def test_every_view_counts_the_views() -> None:
    out = {"logits": torch.randn(4, 3), "features": torch.randn(4, 11), "reject": torch.zeros(4)}
    goal = Goal(torch.zeros(4, dtype=torch.int64), torch.tensor([1, 2, 1, 0]), torch.zeros(4))
    loss = EveryView(3).loss(out, goal)
    logs = out["features"][:, :9].view(4, 3, 3).log_softmax(2)
    expected = torch.stack([logs[row, :, goal.target[row]].mean() for row in range(4)])
    assert torch.allclose(loss, expected)
    with pytest.raises(ModelError):
        EveryView(4).loss(out, goal)
    with pytest.raises(ModelError):
        EveryView(2).loss(out["logits"], goal)
    with pytest.raises(InputError):
        EveryView(0)


def test_what_is_no_squeezer_is_refused() -> None:
    with pytest.raises(InputError):
        FeatureSqueezing((BitDepth(1), torch.nn.Identity()))  # type: ignore[arg-type]
