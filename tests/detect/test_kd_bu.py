"""KD+BU: its two numbers beside scikit-learn and passes by hand, and what it refuses."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.neighbors import KernelDensity
from torch import nn

from torchproof.core.errors import InputError, ModelError, UnknownName
from torchproof.detect.detector import Clean
from torchproof.detect.kd_bu import KDBU


def taught(images: Any, rows: int = 600) -> Clean:
    part = images.fit
    return Clean(part.x[:rows], part.y[:rows], part.adversarial[:rows])


def hidden(model: Any, x: torch.Tensor) -> torch.Tensor:
    """(B, 32), worked out by hand."""
    x = model.act2(model.conv2(model.act1(model.conv1(x))))
    found: torch.Tensor = model.act3(model.fc1(x.flatten(1)))
    return found.detach()


def test_evidence_is_density_and_uncertainty(classifier: nn.Module, images: Any) -> None:
    fitted = KDBU(bandwidth=1.2).fit(classifier, taught(images))
    x = images.test.adversarial[:15]
    deep = hidden(classifier, x)
    with torch.no_grad():
        evidence, predicted = fitted.evidence(x), classifier(x).argmax(1)
    known, labels = fitted.densities.points, fitted.densities.labels
    for i in range(len(x)):
        theirs = KernelDensity(bandwidth=1.2).fit(known[labels == predicted[i]].numpy())
        expected = theirs.score_samples(deep[i : i + 1].numpy())[0]
        assert float(evidence[i, 0]) == pytest.approx(expected, rel=1e-5)
    assert fitted.passes is not None
    (mask,) = fitted.passes.masks
    last: Any = classifier.fc2
    passes = torch.stack([last(deep * kept / 0.7).softmax(1) for kept in mask], 1).detach().numpy()
    expected = np.mean(np.mean(passes**2, 1) - np.mean(passes, 1) ** 2, 1)
    np.testing.assert_allclose(evidence[:, 1], expected, rtol=1e-3, atol=1e-7)
    torch.testing.assert_close(fitted.features(x), deep)


@pytest.mark.slow
def test_images_of_the_density_teach_nothing_else(classifier: Any, images: Any) -> None:
    """Half of each class; what is made of them does not reach the regression."""
    data = taught(images)
    fitted = KDBU(bandwidth=1.2).fit(classifier, data)
    apart = torch.cdist(hidden(classifier, data.x).double(), fitted.densities.points)
    held = apart.amin(1) < 1e-4
    sizes, all_sizes = fitted.densities.sizes, torch.bincount(data.y)
    assert bool(((sizes - all_sizes / 2).abs() <= 0.5).all()) and int(held.sum()) == sizes.sum()
    assert data.adversarial is not None
    spoilt = torch.where(held.reshape(-1, 1, 1, 1), 0.5, data.adversarial)
    again = KDBU(bandwidth=1.2).fit(classifier, Clean(data.x, data.y, spoilt))
    assert torch.equal(fitted.logistic.weight, again.logistic.weight)


def test_points_are_capped(classifier: nn.Module, images: Any) -> None:
    fitted = KDBU(at_most=5).fit(classifier, taught(images))
    assert fitted.densities.sizes.tolist() == [5.0] * 10


def test_layers_by_name_are_joined(classifier: nn.Module, images: Any) -> None:
    fitted = KDBU(passes=0, layers=("fc1", "act3")).fit(classifier, taught(images))
    found = fitted.features(images.test.x[:4])
    assert found.shape == (4, 64) and torch.equal(found[:, :32].relu(), found[:, 32:])
    with pytest.raises(UnknownName, match="fc9"):
        KDBU(layers=("fc9",)).fit(classifier, taught(images))


def test_without_dropout_density_alone_is_offered(classifier: nn.Module, images: Any) -> None:
    model: Any = copy.deepcopy(classifier)
    model.dropout = nn.Identity()
    with pytest.raises(ModelError, match="passes=0"):
        KDBU().fit(model, taught(images))
    alone = KDBU(passes=0).fit(model, taught(images))
    assert alone.evidence(images.test.x[:3]).shape == (3, 1)


def test_refusals(classifier: nn.Module, images: Any) -> None:
    for wrong in ({"share": 1.0}, {"passes": 1}, {"at_most": 0}):
        with pytest.raises(InputError, match="at least two passes"):
            KDBU(**wrong)
    data = taught(images)
    some = data.y != 3
    assert data.adversarial is not None
    with pytest.raises(InputError, match="one at least of each of 10"):
        KDBU().fit(classifier, Clean(data.x[some], data.y[some], data.adversarial[some]))
    with pytest.raises(InputError, match="bandwidth"):
        KDBU(bandwidth=-1.0).fit(classifier, data)
