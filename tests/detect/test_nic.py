"""NIC: every machine against scikit-learn's on features worked out by hand, and its heads."""

from __future__ import annotations

import copy
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

from torchproof.attack.ascend import Run
from torchproof.attack.catalogue import pgd
from torchproof.attack.combine import Attack
from torchproof.attack.pgd import PGD
from torchproof.core.errors import InputError, ModelError
from torchproof.core.keys import permutation
from torchproof.core.ranking import auroc
from torchproof.core.rejection import Rejecting
from torchproof.core.threats import parse
from torchproof.detect.derived import Heads, train_heads
from torchproof.detect.detector import Clean, Guarded
from torchproof.detect.nic import NIC, FittedNIC
from torchproof.detect.one_class import one_class
from torchproof.detect.principal import Principal
from torchproof.detect.scaling import Scaling

LAYERS = ("act1", "act2", "dropout")
SMALL = NIC(epochs=40, lr=3e-3, components=50)


@pytest.fixture(scope="module")
def fitted(classifier: nn.Module, images: Any) -> FittedNIC:
    return SMALL.fit(classifier, Clean(images.fit.x, images.fit.y))


@pytest.fixture(scope="module")
def barely(classifier: nn.Module, images: Any) -> Tensor:
    """Test images moved just across the boundary."""
    attack = pgd(parse("linf:0.15"), steps=20)
    found = attack(classifier, images.test.x, images.test.y, run=Run(1))
    return (images.test.x + found.value).clamp(0, 1)[found.lost]


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


def test_untrained_heads_are_worse_on_the_pair_features(
    classifier: nn.Module, images: Any, barely: Tensor
) -> None:
    """The published code never trains them. Compared by a final machine on the steps between the
    heads alone: the last step holds the classifier's own answer, which is not random.
    """
    data = Clean(images.fit.x, images.fit.y)
    for seed in range(3):
        areas, gaps = [], []
        for epochs in (0, 40):
            detector = replace(SMALL, epochs=epochs).fit(classifier, data, seed)
            with torch.no_grad():
                groups = images.calibrate.x, images.test.x, barely
                known, clean, attacked = (detector.decisions(x)[:, 4:6] for x in groups)
                agreed = [_agreed(detector.provenance(x)[1]) for x in groups[1:]]
            final = one_class(known, (0.1, "scale"), Scaling.z_score(known))
            areas.append(auroc(-final(clean), -final(attacked)))
            gaps.append(agreed[0] - agreed[1])
        assert areas[0] < 0.55 and areas[1] > 0.65, areas
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


def test_it_tells_attacked_images_from_clean_ones(
    fitted: FittedNIC, images: Any, barely: Tensor
) -> None:
    assert auroc(fitted.score(images.test.x), fitted.score(barely)) > 0.7


def test_rows_do_not_depend_on_each_other(fitted: FittedNIC, images: Any) -> None:
    x = images.test.x[:12]
    torch.testing.assert_close(fitted.score(x), fitted.score(x, batch_size=1), rtol=1e-4, atol=1e-4)


def test_the_gradient_is_that_of_the_score(fitted: FittedNIC, images: Any) -> None:
    exact = copy.deepcopy(fitted).double()
    x = images.test.x[:6].double().clamp(0.01, 0.99).requires_grad_()
    way = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    slope = (torch.autograd.grad(exact(x).sum(), x)[0] * way).flatten(1).sum(1)
    with torch.no_grad():
        measured = (exact(x + 1e-7 * way) - exact(x - 1e-7 * way)) / 2e-7
    torch.testing.assert_close(slope, measured, rtol=1e-4, atol=1e-4)
    assert bool((slope != 0).all())


def test_fitting_leaves_no_trace_and_is_keyed_by_the_seed(
    classifier: nn.Module, images: Any
) -> None:
    quick = replace(SMALL, epochs=1, at_most=40)
    data = Clean(images.fit.x[:200], images.fit.y[:200])
    before, random = copy.deepcopy(classifier.state_dict()), torch.random.get_rng_state()
    one, same, other = (quick.fit(classifier, data, seed) for seed in (0, 0, 1))
    assert torch.equal(random, torch.random.get_rng_state())
    assert all(torch.equal(v, before[name]) for name, v in classifier.state_dict().items())
    assert all(p.grad is None for p in classifier.parameters())
    x = images.test.x[:20]
    expected = one.score(x)
    assert torch.equal(expected, same.score(x))
    assert not torch.equal(expected, other.score(x))
    same.values.apply(_forget)
    same.final.apply(_forget)
    same.heads.apply(_forget)
    assert not torch.equal(expected, same.score(x))
    same.load_state_dict(one.state_dict())
    assert torch.equal(expected, same.score(x))


def _forget(module: nn.Module) -> None:
    for tensor in [*module.parameters(), *module.buffers()]:
        tensor.data.zero_()


def test_its_attacks_run_and_find_ways(fitted: FittedNIC, images: Any) -> None:
    rule, threat = Rejecting(threshold=1.0), parse("linf:0.25")
    attacks = fitted.attacks(threat, rule, Clean(images.fit.x, images.fit.y))
    x, y = images.test.x[:4], images.test.y[:4]
    guarded = Guarded(fitted, features=True)
    assert guarded(x)["features"].shape == (4, 47)
    lost = torch.zeros(4, dtype=torch.bool)
    for attack in attacks[-2:]:
        assert isinstance(attack, Attack) and attack.targets == 3
        short = replace(attack, search=PGD(20))
        lost |= short(guarded, x, y, run=Run(0)).lost
    assert bool(lost.any())


def test_what_cannot_be_meant_is_refused(classifier: nn.Module, images: Any) -> None:
    with pytest.raises(InputError, match="nu in"):
        NIC(value=(0.0, "scale"))
    with pytest.raises(InputError, match="gamma > 0"):
        NIC(pair=(0.1, "auto"))
    with pytest.raises(InputError, match="at_most 5"):
        NIC(at_most=5)
    with pytest.raises(InputError, match="at least 80"):
        SMALL.fit(classifier, Clean(images.fit.x[:60], images.fit.y[:60]))
