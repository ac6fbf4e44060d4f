"""Support vector machines in torch beside scikit-learn's own answers."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.svm import SVC, OneClassSVM

from torchproof.core.errors import InputError, UnknownName
from torchproof.detect.parts.rbf_svm import SupportVectors
from torchproof.detect.parts.scaling import Scaling


def blobs(classes: int, seed: int = 0, n: int = 40) -> tuple[np.ndarray, np.ndarray]:
    draws = np.random.default_rng(seed)
    x = np.concatenate([draws.normal(c, 1.0, (n, 6)) * (1 + c) for c in range(classes)])
    return x, np.repeat(np.arange(classes), n)


@pytest.mark.parametrize("kernel", ["rbf", "sigmoid", "linear"])
@pytest.mark.parametrize(("classes", "shape"), [(2, "ovr"), (4, "ovr"), (4, "ovo"), (3, "ovr")])
def test_equal_to_scikit_learn(kernel: str, classes: int, shape: str) -> None:
    x, y = blobs(classes)
    more = blobs(classes, seed=1)[0]
    machine = SVC(kernel=kernel, coef0=0.2, C=0.7, decision_function_shape=shape).fit(x, y)
    ours = SupportVectors.of(machine)
    expected = torch.from_numpy(machine.decision_function(more))
    torch.testing.assert_close(ours(torch.from_numpy(more)), expected, rtol=1e-9, atol=1e-9)
    single = ours(torch.from_numpy(more).float())
    assert single.dtype == torch.float32
    alike = machine.decision_function(more.astype(np.float32).astype(np.float64))
    np.testing.assert_allclose(single, alike, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kernel", ["rbf", "sigmoid"])
def test_one_class(kernel: str) -> None:
    x, more = blobs(1)[0], blobs(2, seed=1)[0]
    machine = OneClassSVM(kernel=kernel, nu=0.2, gamma=0.1).fit(x)
    ours = SupportVectors.of(machine)(torch.from_numpy(more))
    np.testing.assert_allclose(ours, machine.decision_function(more), rtol=1e-9, atol=1e-12)


def test_one_against_the_rest_keeps_shared_vectors_once() -> None:
    x, y = blobs(4)
    more = blobs(4, seed=1)[0]
    machine = OneVsRestClassifier(SVC(C=0.5)).fit(x, y)
    ours = SupportVectors.of(machine)
    answer = ours(torch.from_numpy(more))
    np.testing.assert_allclose(answer, machine.decision_function(more), rtol=1e-9, atol=1e-9)
    assert len(ours.vectors) <= len(x) < sum(len(m.support_) for m in machine.estimators_)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (StandardScaler(), Scaling.z_score),
        (MinMaxScaler(), Scaling.min_max),
        (MinMaxScaler((-1, 1)), lambda f: Scaling.min_max(f, -1.0, 1.0)),
    ],
)
def test_scaling_is_scikit_learns(theirs: object, ours: object) -> None:
    x, y = blobs(2)
    x[:, 2] = 0.3  # constant features are only shifted
    more = blobs(2, seed=1)[0]
    pipe = make_pipeline(theirs, SVC()).fit(x, y)
    scaling = ours(torch.from_numpy(x))
    scaled = scaling(torch.from_numpy(more))
    np.testing.assert_allclose(scaled, pipe[0].transform(more), rtol=1e-9, atol=1e-9)
    found = SupportVectors.of(pipe[-1], scaling)(torch.from_numpy(more))
    np.testing.assert_allclose(found, pipe.decision_function(more), rtol=1e-9, atol=1e-9)


def test_constant_features_of_an_odd_value() -> None:
    """The mean of 0.1, 0.1, ... differs from 0.1 by rounding, which must not be blown up."""
    flat = torch.full((77, 2), 0.1, dtype=torch.float64)
    for scaling in (Scaling.z_score(flat), Scaling.min_max(flat)):
        assert bool((scaling(flat + 0.5).sub(0.5).abs() < 1e-12).all())


@pytest.mark.parametrize("kernel", ["rbf", "sigmoid", "linear"])
def test_gradients_are_exact(kernel: str) -> None:
    x, y = blobs(3)
    ours = SupportVectors.of(SVC(kernel=kernel, decision_function_shape="ovo").fit(x, y))
    points = torch.from_numpy(blobs(3, seed=2, n=1)[0]).requires_grad_()
    assert torch.autograd.gradcheck(ours, (points,))
    on = ours.vectors[:2].clone().requires_grad_()  # on support vectors themselves
    assert torch.autograd.gradcheck(ours, (on,))


def test_votes_count_forwards_and_slope_backwards() -> None:
    x, y = blobs(4)
    ours = SupportVectors.of(SVC().fit(x, y))
    points = torch.from_numpy(blobs(4, seed=2, n=3)[0]).requires_grad_()
    answer = ours(points)
    assert bool(((answer.round() - answer).abs() < 1 / 3).all())
    (slope,) = torch.autograd.grad(answer[:, 1].sum(), points)
    assert bool(slope.isfinite().all()) and bool((slope.abs().amax(1) > 0).all())


def test_saved_and_moved_as_modules_are() -> None:
    x, y = blobs(2)
    ours = SupportVectors.of(SVC().fit(x, y), Scaling.z_score(torch.from_numpy(x)))
    other = copy.deepcopy(ours)
    for buffer in other.buffers():
        buffer.zero_()
    other.load_state_dict(ours.state_dict())
    points = torch.from_numpy(x[:5])
    assert torch.equal(other(points), ours(points))
    assert torch.equal(torch.cat([ours(p) for p in points.split(1)]).float(), ours(points).float())


def test_what_cannot_be_read_is_refused() -> None:
    x, y = blobs(2)
    with pytest.raises(InputError, match="fit it first"):
        SupportVectors.of(SVC())
    with pytest.raises(UnknownName, match="poly"):
        SupportVectors.of(SVC(kernel="poly").fit(x, y))
    with pytest.raises(InputError, match="finite"):
        Scaling.z_score(torch.tensor([[float("nan")]]))
