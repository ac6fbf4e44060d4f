"""NIC: every machine against scikit-learn's on features worked out by hand, and its heads."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler
from sklearn.svm import OneClassSVM
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.core.errors import InputError, ModelError
from torchproof.core.keys import permutation
from torchproof.core.ranking import auroc
from torchproof.detect.detector import Clean
from torchproof.detect.nic import NIC, FittedNIC
from torchproof.detect.parts.derived import Heads, train_heads
from torchproof.detect.parts.one_class import one_class
from torchproof.detect.parts.principal import Principal
from torchproof.detect.parts.scaling import Scaling

LAYERS = ("act1", "act2", "dropout")


@pytest.fixture(scope="module")
def fitted(fitted_as: Any) -> FittedNIC:
    found: FittedNIC = fitted_as("nic")
    return found


def _layers(net: Any, x: Tensor) -> list[np.ndarray]:
    """The three hidden layers of the small network, and its logits."""
    with torch.no_grad():
        first = F.relu(net.conv1(x))
        second = F.relu(net.conv2(first))
        third = F.relu(net.fc1(second.flatten(1)))
        found = [first.flatten(1), second.flatten(1), third, net.fc2(third)]
    return [a.double().numpy() for a in found]


def _softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def _steps(fitted: FittedNIC, layers: list[np.ndarray]) -> list[np.ndarray]:
    weights = [(h.weight.double().numpy(), h.bias.double().numpy()) for h in fitted.heads.heads]
    told = [_softmax(a @ w.T + b) for a, (w, b) in zip(layers, weights, strict=False)]
    told.append(_softmax(layers[-1]))
    return [np.concatenate(both, 1) for both in itertools.pairwise(told)]


def test_every_machine_is_scikit_learns(fitted: FittedNIC, images: Any) -> None:
    order = permutation(600, 0, "nic", "parts")
    first, last, x = images.fit.x[order[:150]], images.fit.x[order[150:300]], images.test.x
    known, later, asked = (_layers(fitted.model, part) for part in (first, last, x))
    machines, of_last, of_x = [], [], []
    for a, b, c in zip(known, later, asked, strict=True):
        turn = PCA(50, svd_solver="full").fit(a) if a.shape[1] > 50 else None
        a, b, c = (v if turn is None else turn.transform(v) for v in (a, b, c))
        machines.append(OneClassSVM(nu=0.01, gamma="scale").fit(a))
        of_last.append(machines[-1].decision_function(b))
        of_x.append(machines[-1].decision_function(c))
    steps = (_steps(fitted, part) for part in (known, later, asked))
    for a, b, c in zip(*steps, strict=True):
        machines.append(OneClassSVM(nu=0.1, gamma="scale").fit(a))
        of_last.append(machines[-1].decision_function(b))
        of_x.append(machines[-1].decision_function(c))
    with torch.no_grad():
        decisions = fitted.decisions(x)
    expected = np.stack(of_x, 1)
    assert decisions.shape == (len(x), 7)
    # the machines were fitted on float32 activations: their solver stops at a tolerance of 1e-3
    np.testing.assert_allclose(decisions.numpy(), expected, rtol=2e-2, atol=5e-3)
    final = OneClassSVM(nu=0.1, gamma="scale")
    scaler = StandardScaler().fit(np.stack(of_last, 1))
    final.fit(scaler.transform(np.stack(of_last, 1)))
    score = -final.decision_function(scaler.transform(expected))
    np.testing.assert_allclose(fitted.score(x).numpy(), score, rtol=2e-2, atol=1e-1)


def test_a_machine_says_what_scikit_learns_says() -> None:
    rng = np.random.default_rng(0)
    known, x = rng.normal(3, 2, size=(300, 7)), rng.normal(3, 4, size=(50, 7))
    machine = OneClassSVM(nu=0.05, gamma="scale").fit(known)
    found = one_class(torch.from_numpy(known), (0.05, "scale"))
    expected = machine.decision_function(x)
    np.testing.assert_allclose(found(torch.from_numpy(x)).numpy(), expected, rtol=1e-5, atol=1e-9)
    scaling = Scaling.z_score(torch.from_numpy(known))
    scaler = StandardScaler().fit(known)
    machine = OneClassSVM(nu=0.05, gamma=0.3).fit(scaler.transform(known))
    found = one_class(torch.from_numpy(known), (0.05, 0.3), scaling)
    expected = machine.decision_function(scaler.transform(x))
    np.testing.assert_allclose(found(torch.from_numpy(x)).numpy(), expected, rtol=1e-5, atol=1e-7)


def test_principal_components_are_scikit_learns() -> None:
    rng = np.random.default_rng(1)
    known = rng.normal(size=(30, 90)) @ rng.normal(size=(90, 90))
    x = rng.normal(size=(8, 90))
    for asked, kept in ((5, 5), (400, 29)):  # 30 rows have no more
        expected = PCA(kept, svd_solver="full").fit(known).transform(x)
        found = Principal.of(torch.from_numpy(known), asked)(torch.from_numpy(x)).numpy()
        assert found.shape == (8, kept)
        np.testing.assert_allclose(np.abs(found), np.abs(expected), rtol=1e-6, atol=1e-8)
    with pytest.raises(InputError, match="all the same"):
        Principal.of(torch.ones(5, 4), 2)


@pytest.mark.slow
def test_untrained_heads_are_worse_on_the_pair_features(
    recipes: Any, classifier: nn.Module, images: Any, barely: Tensor
) -> None:
    """The published code never trains them. Compared by a final machine on the steps between the
    heads alone: the last step holds the classifier's own answer, which is not random.
    """
    data = Clean(images.fit.x, images.fit.y)
    for seed in range(3):
        areas, gaps = [], []
        for epochs in (0, 40):
            detector = replace(recipes["nic"], epochs=epochs).fit(classifier, data, seed)
            with torch.no_grad():
                groups = images.calibrate.x, images.test.x, barely
                known, clean, attacked = (detector.decisions(x)[:, 4:6] for x in groups)
                agreed = [_agreed(detector.provenance(x)[1]) for x in groups[1:]]
            final = one_class(known, (0.1, "scale"), Scaling.z_score(known))
            areas.append(auroc(-final(clean), -final(attacked)))
            gaps.append(agreed[0] - agreed[1])
        assert areas[0] < 0.55 and areas[1] > 0.6, areas
        assert abs(gaps[0]) < 0.15 and gaps[1] > 0.25, gaps  # the class changes between layers


def _agreed(step: Tensor) -> float:
    one, other = step.chunk(2, dim=1)
    return float((one.argmax(1) == other.argmax(1)).double().mean())


def test_heads_learn_and_end_frozen() -> None:
    x = torch.rand(300, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    y = (x.flatten(1).sum(1) > 6).long()
    torch.manual_seed(0)
    heads = Heads([12, 6], 2)
    train_heads(heads, lambda rows: [x[rows], x[rows].flatten(1)[:, :6]], y, 60, 0.03, seed=0)
    assert not any(p.requires_grad for p in heads.parameters())
    with torch.no_grad():
        right = [(z.argmax(1) == y).float().mean() for z in heads([x, x.flatten(1)[:, :6]])]
    assert right[0] > 0.9 and 0.6 < right[1] < 0.9  # half of the sum is missing
    with pytest.raises(ModelError, match="7 entries"):
        heads([x, torch.rand(2, 7)])


def test_what_it_works_with_can_be_matched(fitted: FittedNIC, images: Any) -> None:
    """The logits of the three heads, the classifier's, and what the seven machines say."""
    assert fitted.features(images.test.x[:4]).shape == (4, 4 * 10 + 7)


def test_what_cannot_be_meant_is_refused(classifier: nn.Module, images: Any) -> None:
    with pytest.raises(InputError, match="nu in"):
        NIC(value=(0.0, "scale"))
    with pytest.raises(InputError, match="gamma > 0"):
        NIC(pair=(0.1, "auto"))
    with pytest.raises(InputError, match="at_most 5"):
        NIC(at_most=5)
    with pytest.raises(InputError, match="at least 80"):
        NIC().fit(classifier, Clean(images.fit.x[:60], images.fit.y[:60]))
