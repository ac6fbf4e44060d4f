"""Feature squeezing against numpy and scipy, and against attacks that know it."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import median_filter
from scipy.special import softmax
from torch import nn

from torchproof.attack.ascend import Run
from torchproof.attack.catalogue import pgd
from torchproof.core.errors import InputError, ModelError
from torchproof.core.objectives import Goal
from torchproof.core.ranking import auroc
from torchproof.core.rejection import Rejecting
from torchproof.core.threats import parse
from torchproof.detect.calibrate import calibrate, calibrated_rule
from torchproof.detect.detector import Clean, Guarded
from torchproof.detect.every_view import EveryView
from torchproof.detect.feature_squeezing import FeatureSqueezing, best_squeezers
from torchproof.detect.squeezers import CIFAR10, IMAGENET, MNIST, BitDepth, Median, NonLocalMeans

# strokes of 8 x 8 digits are a pixel wide, and the paper's median for MNIST wipes them out
GENTLE = (BitDepth(2), NonLocalMeans(5, 3, 60.0))
BEST = Run(seed=0, patience=math.inf)  # the most certain adversarial image, not the first


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


def test_rows_do_not_depend_on_each_other(fitted: Any, images: Any) -> None:
    x = images.test.adversarial[:20]
    assert torch.allclose(fitted.score(x), fitted.score(x, batch_size=1), atol=1e-5)


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


def test_tells_attacked_images_from_clean_ones(classifier: nn.Module, images: Any) -> None:
    fitted = FeatureSqueezing(GENTLE).fit(classifier, Clean(images.fit.x, images.fit.y))
    x, y = images.test.x[:60], images.test.y[:60]
    found = pgd(parse("linf:0.15"), 20)(classifier, x, y, run=BEST)
    adversarial = (x + found.value)[found.lost]
    assert auroc(fitted.score(images.test.x), fitted.score(adversarial)) > 0.85


def test_an_attack_that_knows_it_gets_past_it(classifier: nn.Module, images: Any) -> None:
    """Of nearly all images it finds one that is misclassified and accepted; PGD on the classifier
    alone, at the same strength, of a sixth less at least.
    """
    known, threat = Clean(images.fit.x, images.fit.y), parse("linf:0.2")
    fitted = FeatureSqueezing(GENTLE).fit(classifier, known)
    clean = fitted.score(images.calibrate.x)
    threshold = calibrate(clean, 0.05)
    with torch.no_grad():
        numbers = calibrated_rule(threshold, classifier(images.calibrate.x), clean)
    attacks = fitted.attacks(threat, Rejecting(threshold=threshold.value, **numbers), known)
    assert len(attacks) == 4
    x, y = images.test.x[:20], images.test.y[:20]
    found = attacks[2](Guarded(fitted, features=True), x, y, run=Run(seed=0))
    adversarial = (x + found.value)[found.lost]
    assert bool((classifier(adversarial).argmax(1) != y[found.lost]).all())
    assert not bool(threshold.flags(fitted.score(adversarial)).any())
    plain = pgd(threat, 20)(classifier, x, y, run=BEST)
    passed = plain.lost & ~threshold.flags(fitted.score(x + plain.value))
    assert int(found.lost.sum()) > max(17, int(passed.sum()) + 3)


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


def test_a_saved_detector_is_the_same_again(fitted: Any, images: Any) -> None:
    other = FeatureSqueezing().fit(
        copy.deepcopy(fitted.model), Clean(images.fit.x, images.fit.y), seed=1
    )
    with torch.no_grad():
        other.model.fc2.bias.add_(1.0)
    other.load_state_dict(fitted.state_dict())
    assert torch.equal(other.score(images.test.x), fitted.score(images.test.x))


def test_what_is_no_squeezer_is_refused() -> None:
    with pytest.raises(InputError):
        FeatureSqueezing((BitDepth(1), torch.nn.Identity()))  # type: ignore[arg-type]
