"""The fit of the asymmetric generalised Gaussian on samples of known parameters."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.special import gamma
from scipy.stats import gennorm

from torchproof.detect.parts.asymmetric_gaussian import fit_asymmetric, rho, shape_of


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0, 4.0])
def test_symmetric_ones_are_recovered(alpha: float) -> None:
    """Laplace is alpha = 1, normal alpha = 2."""
    x = gennorm.rvs(alpha, size=100_000, random_state=0)
    found = fit_asymmetric(torch.from_numpy(x / x.std())[None])
    assert float(found.alpha) == pytest.approx(alpha, rel=0.03)
    assert float(found.left) == pytest.approx(1, rel=0.05 if alpha < 1 else 0.03)
    assert float(found.right) == pytest.approx(1, rel=0.05 if alpha < 1 else 0.03)
    assert abs(float(found.eta)) < 0.01


@pytest.mark.parametrize(("alpha", "left", "right"), [(1.0, 0.5, 1.5), (2.0, 2.0, 1.0)])
def test_asymmetric_ones_are_recovered(alpha: float, left: float, right: float) -> None:
    """|x| = b G^(1 / alpha), G ~ Gamma(1 / alpha); to the left with chance b_l / (b_l + b_r)."""
    draws = np.random.default_rng(0)
    unit = math.sqrt(gamma(1 / alpha) / gamma(3 / alpha))
    scales = np.where(draws.random(200_000) < left / (left + right), -left * unit, right * unit)
    x = scales * draws.gamma(1 / alpha, size=200_000) ** (1 / alpha)
    found = fit_asymmetric(torch.from_numpy(x)[None])
    assert float(found.alpha) == pytest.approx(alpha, rel=0.05)
    assert float(found.left) == pytest.approx(left**2, rel=0.04)
    assert float(found.right) == pytest.approx(right**2, rel=0.04)
    assert float(found.eta) == pytest.approx(x.mean(), abs=0.01)  # eta is the mean


def test_root_is_that_of_a_bracketed_search() -> None:
    ratios = np.linspace(float(rho(torch.tensor(0.2).double())) + 1e-6, 0.74, 50)

    def distance(alpha: float, ratio: float) -> float:
        return gamma(2 / alpha) ** 2 / (gamma(1 / alpha) * gamma(3 / alpha)) - ratio

    expected = [brentq(distance, 0.2, 10, args=(r,), xtol=1e-13) for r in ratios]
    np.testing.assert_allclose(shape_of(torch.from_numpy(ratios)), expected, rtol=1e-9)
    assert shape_of(torch.tensor([0.0, 0.9]).double()).tolist() == pytest.approx([0.2, 10.0])


def test_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 30, generator=generator, dtype=torch.float64)
    x = (x + 0.05 * x.sign()).requires_grad_()  # none changes sides
    assert torch.autograd.gradcheck(lambda t: torch.stack(fit_asymmetric(t)), (x,))


def test_one_sided_and_empty_samples_are_finite() -> None:
    x = torch.stack([torch.zeros(9), torch.ones(9), -torch.arange(9.0)]).requires_grad_()
    found = torch.stack(fit_asymmetric(x))
    (slope,) = torch.autograd.grad(found.sum(), x)
    assert bool(found.isfinite().all()) and bool(slope.isfinite().all())
    assert found[:, 0].tolist() == pytest.approx([0.2, 0, 0, 0])
    assert found[2:, 1].tolist() == [0.0, 1.0]
