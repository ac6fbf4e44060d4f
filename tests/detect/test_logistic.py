"""Logistic regression in torch beside scikit-learn's, and the noisy images it learns from."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegressionCV
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from torch import Tensor

from torchproof.core.errors import InputError
from torchproof.detect.parts.logistic import Logistic
from torchproof.detect.parts.matched_noise import matched_noise
from torchproof.detect.parts.scaling import Scaling


def parts() -> list[Tensor]:
    draws = np.random.default_rng(0)
    source = draws.normal(0, 3, (60, 4))
    return [torch.from_numpy(source + draws.normal(i, 2, (60, 4))) for i in (0, 0, 1)]


@pytest.mark.parametrize("theirs", [StandardScaler(), MinMaxScaler()])
def test_equal_to_scikit_learn(theirs: object) -> None:
    clean, noisy, adversarial = parts()
    scale = Scaling.z_score if isinstance(theirs, StandardScaler) else Scaling.min_max
    ours = Logistic.fit([clean, noisy], adversarial, scale)
    features, labels = torch.cat([clean, noisy, adversarial]), np.repeat([0, 0, 1], 60)
    folds = list(GroupKFold(5).split(features, labels, np.tile(np.arange(60), 3)))
    pipe = make_pipeline(theirs, LogisticRegressionCV(cv=folds, max_iter=1000))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        pipe.fit(features, labels)
    more = torch.from_numpy(np.random.default_rng(1).normal(0, 5, (30, 4)))
    np.testing.assert_allclose(ours(more), pipe.decision_function(more), rtol=1e-9, atol=1e-12)


def test_a_shift_is_learnt() -> None:
    clean, noisy, adversarial = parts()
    ours = Logistic.fit([clean, noisy], adversarial + 20, Scaling.z_score)
    assert bool((ours(clean) < 0).all()) and bool((ours(adversarial + 20) > 0).all())


def test_refusals() -> None:
    clean, noisy, adversarial = parts()
    with pytest.raises(InputError, match="10 images"):
        Logistic.fit([clean[:9]], adversarial[:9], Scaling.z_score)
    with pytest.raises(InputError, match="as many rows"):
        Logistic.fit([clean, noisy[:50]], adversarial, Scaling.z_score)
    with pytest.raises(InputError, match="finite"):
        Logistic.fit([clean], adversarial * torch.nan, Scaling.z_score)


def test_noise_is_as_long_as_the_attack_is() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(30, 1, 8, 8, generator=generator)
    x[:10] = (x[:10] - 0.9).clamp_min(0)  # dark, so that half of the noise is cut off
    sizes = torch.linspace(0, 0.3, 30).reshape(-1, 1, 1, 1)
    adversarial = (x + sizes * torch.randn(x.shape, generator=generator).sign()).clamp(0, 1)
    noisy = matched_noise(x, adversarial, seed=3)
    lengths = [(other - x).flatten(1).norm(dim=1) for other in (noisy, adversarial)]
    torch.testing.assert_close(lengths[0], lengths[1], rtol=1e-4, atol=1e-5)
    assert float(noisy.min()) >= 0 and float(noisy.max()) <= 1
    assert torch.equal(matched_noise(x[:7], adversarial[:7], seed=3), noisy[:7])
    assert not torch.equal(matched_noise(x, adversarial, seed=4), noisy)
    bent = torch.corrcoef(torch.stack([(noisy - x).flatten(), (adversarial - x).flatten()]))
    assert abs(float(bent[0, 1])) < 0.35  # clipping alone goes with the attack


def test_noise_that_cannot_reach_goes_as_far_as_it_can() -> None:
    x = torch.zeros(1, 1, 4, 4)
    noisy = matched_noise(x, torch.ones_like(x))
    assert bool(((noisy == 0) | (noisy == 1)).all()) and 0 < float(noisy.mean()) < 1
