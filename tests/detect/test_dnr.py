"""Deep neural rejection against scikit-learn, fold by fold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.multiclass import OneVsRestClassifier
from sklearn.svm import SVC
from torch import Tensor, nn

from torchproof.core.errors import InputError, UnknownName
from torchproof.core.keys import seed_of
from torchproof.detect.detector import Clean
from torchproof.detect.dnr import DNR
from torchproof.detect.parts.one_vs_rest import OneVsRest

LAYERS = ("act1", "act2", "dropout")  # what the two linear layers and a convolution read


@pytest.fixture(scope="module")
def fitted(fitted_as: Any) -> Any:
    return fitted_as("dnr")


@torch.no_grad()
def layers_of(model: Any, x: Tensor) -> list[np.ndarray]:
    """What the three hidden layers of small-cnn answer, written out."""
    one = model.conv1(x).relu()
    two = model.conv2(one).relu()
    three = model.fc1(two.flatten(1)).relu()
    return [layer.flatten(1).double().numpy() for layer in (one, two, three)]


@pytest.mark.slow
def test_decisions_equal_scikit_learn(fitted: Any, classifier: nn.Module, images: Any) -> None:
    """The whole pipeline with scikit-learn's own kernel, cross-validation and one-vs-rest."""
    y, x = images.fit.y.numpy(), images.test.adversarial[:60]
    folds = StratifiedKFold(3, shuffle=True, random_state=seed_of(0, "folds") % 2**32)
    seen, asked = layers_of(classifier, images.fit.x), layers_of(classifier, x)
    told, values = [], []
    for known, new in zip(seen, asked, strict=True):
        gamma = 1 / (known.shape[1] * known.var())
        machine = OneVsRestClassifier(SVC(gamma=gamma, tol=1e-6))
        told.append(cross_val_predict(machine, known, y, cv=folds, method="decision_function"))
        values.append(machine.fit(known, y).decision_function(new))
    combiner = OneVsRestClassifier(SVC(C=0.1, gamma=1.0, tol=1e-6)).fit(np.concatenate(told, 1), y)
    expected = combiner.decision_function(np.concatenate(values, 1))
    assert fitted.layers == LAYERS
    with torch.no_grad():
        assert np.allclose(
            fitted.base_decisions(x), np.concatenate(values, 1), rtol=1e-5, atol=1e-5
        )
        assert np.allclose(fitted.decisions(x), expected, rtol=1e-5, atol=1e-5)
    assert np.allclose(fitted.score(x), -expected.max(1), rtol=1e-5, atol=1e-5)


def test_the_combiner_learns_from_rows_that_the_base_has_not_seen() -> None:
    """Labels without any relation to the features: base machines know the rows they were fitted on
    by heart, and are at chance out of fold.
    """
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(300, 20, generator=generator, dtype=torch.float64)
    y = torch.randint(3, (300,), generator=generator)
    machines = OneVsRest(cost=100.0)
    learnt = machines.fit(features, y)(features).argmax(1)
    held = machines.out_of_fold(features, y, 3, 0).argmax(1)
    assert float((learnt == y).double().mean()) == 1.0
    assert float((held == y).double().mean()) < 0.45


def test_its_own_classes_are_right(fitted: Any, images: Any) -> None:
    with torch.no_grad():
        classes = fitted.decisions(images.test.x).argmax(1)
    assert float((classes == images.test.y).double().mean()) > 0.95


def test_features_hold_the_distances_of_the_kernels(fitted: Any, images: Any) -> None:
    x = images.test.x[:6]
    with torch.no_grad():
        found = fitted.features(x)
        first = torch.cdist(found, found).square()
        expected = torch.zeros(6, 6, dtype=torch.float64)
        for machine, layer in zip(fitted.base, layers_of(fitted.model, x), strict=True):
            expected += machine.gamma * torch.cdist(*[torch.from_numpy(layer)] * 2).square()
    assert torch.allclose(first.double(), expected, atol=1e-4)


def test_settings_and_images_nobody_can_mean_are_refused(
    classifier: nn.Module, images: Any
) -> None:
    for make in (
        lambda: DNR(folds=1),
        lambda: DNR(at_most=1),
        lambda: DNR(cost=0.0),
        lambda: DNR(gamma=-1.0),
        lambda: DNR(gamma="auto"),
        lambda: DNR(combiner_cost=-1.0),
    ):
        with pytest.raises(InputError):
            make()
    x, y = images.fit.x, images.fit.y
    with pytest.raises(InputError):
        DNR().fit(classifier, Clean(x[:12], y[:12]))
    with pytest.raises(InputError):
        DNR().fit(classifier, Clean(x[y == 3], y[y == 3]))
    with pytest.raises(UnknownName):
        DNR(layers=("act9",)).fit(classifier, Clean(x, y))


def test_training_images_are_capped(classifier: nn.Module, images: Any) -> None:
    data = Clean(images.fit.x, images.fit.y)
    one, other = (DNR(("act3",), folds=2, at_most=100).fit(classifier, data, s) for s in (0, 1))
    assert max(len(one.combiner.vectors), len(one.base[0].vectors)) <= 100
    assert not torch.equal(one.score(images.test.x), other.score(images.test.x))
