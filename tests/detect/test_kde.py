"""Class densities beside scikit-learn's."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from sklearn.model_selection import GridSearchCV, LeaveOneOut
from sklearn.neighbors import KernelDensity

from torchproof.core.errors import InputError
from torchproof.detect.parts.kde import BANDWIDTHS, ClassDensities, best_bandwidth


def points(rows: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 2, (rows, 5))


@pytest.mark.parametrize("bandwidth", [0.1, 0.26, 1.2])
def test_log_density_is_scikit_learns(bandwidth: float) -> None:
    known, labels = points(90, 0), np.arange(90) % 3
    asked, wanted = points(40, 1), np.arange(40) % 3
    ours = ClassDensities(torch.from_numpy(known), torch.from_numpy(labels), 3, bandwidth)
    found = ours(torch.from_numpy(asked), torch.from_numpy(wanted))
    for label in range(3):
        theirs = KernelDensity(bandwidth=bandwidth).fit(known[labels == label])
        expected = theirs.score_samples(asked[wanted == label])
        np.testing.assert_allclose(found[wanted == label], expected, rtol=1e-9)


def test_far_away_and_at_a_point_all_is_finite() -> None:
    known = torch.from_numpy(points(30, 0))
    ours = ClassDensities(known, torch.arange(30) % 2, 2, 0.1)
    asked = torch.cat([known[:1] + 1e3, known[:1]]).requires_grad_()
    found = ours(asked, torch.tensor([0, 0]))
    (slope,) = torch.autograd.grad(found.sum(), asked)
    assert bool(found.isfinite().all()) and bool(slope.isfinite().all())
    assert float(slope[0].norm()) > 0 and float(slope[1].norm()) < 1e-6  # the top of a mode


def test_gradient() -> None:
    ours = ClassDensities(torch.from_numpy(points(30, 0)), torch.arange(30) % 3, 3, 1.0)
    asked = torch.from_numpy(points(4, 1)).requires_grad_()
    labels = torch.tensor([0, 1, 2, 0])
    assert torch.autograd.gradcheck(lambda x: ours(x, labels), (asked,))


def test_best_bandwidth_is_that_of_a_grid_search() -> None:
    for scale in (0.3, 2.0):
        known = points(25, 3) * scale
        search = GridSearchCV(KernelDensity(), {"bandwidth": BANDWIDTHS}, cv=LeaveOneOut())
        expected = search.fit(known).best_params_["bandwidth"]
        one_class = torch.zeros(25, dtype=torch.int64)
        assert best_bandwidth(torch.from_numpy(known), one_class) == expected


def test_saved_as_modules_are() -> None:
    ours = ClassDensities(torch.from_numpy(points(30, 0)), torch.arange(30) % 3, 3, 1.0)
    other = copy.deepcopy(ours)
    for buffer in other.buffers():
        buffer.zero_()
    other.load_state_dict(ours.state_dict())
    asked = torch.from_numpy(points(4, 1)), torch.tensor([0, 1, 2, 0])
    assert torch.equal(other(*asked), ours(*asked))


def test_refusals() -> None:
    known = torch.from_numpy(points(30, 0))
    with pytest.raises(InputError, match="one at least of each of 4"):
        ClassDensities(known, torch.arange(30) % 3, 4, 1.0)
    with pytest.raises(InputError, match="bandwidth"):
        ClassDensities(known, torch.arange(30) % 3, 3, 0.0)
    with pytest.raises(InputError, match="two images"):
        best_bandwidth(known[:2], torch.tensor([0, 1]))
