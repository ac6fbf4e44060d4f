"""Natural scene statistics beside scipy's filters and root finder."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate
from scipy.optimize import brentq
from scipy.special import gamma
from sklearn.svm import SVC
from torch import Tensor, nn

from torchproof.core.errors import InputError
from torchproof.detect.detector import Clean
from torchproof.detect.nss import NSS, contrast_normalised, scene_statistics


def pictures(rows: int, channels: int = 1, side: int = 12) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(rows, channels, side, side, generator=generator, dtype=torch.float64)
    return (0.5 + 0.05 * noise**3).clamp(0, 1)  # heavy tails, as natural contrast has


def coefficients(image: np.ndarray) -> np.ndarray:
    """By scipy, from a grey image (H, W)."""
    at = np.arange(-3, 4)
    window = np.exp(-(at[:, None] ** 2 + at**2) / (2 * (7 / 6) ** 2))
    window /= window.sum()
    mean = correlate(image, window, mode="mirror")
    deviation = np.sqrt(np.abs(mean**2 - correlate(image**2, window, mode="mirror")))
    return (image - mean) / (deviation + 1 / 255)


def moments(x: np.ndarray) -> tuple[float, float, float, float]:
    """alpha, eta and the variances of both sides, as the formulas have it."""
    left, right = np.mean(x[x < 0] ** 2), np.mean(x[x > 0] ** 2)
    g = np.sqrt(left / right)
    ratio = np.mean(np.abs(x)) ** 2 / np.mean(x**2)
    ratio *= (g**3 + 1) * (g + 1) / (g**2 + 1) ** 2
    alpha = brentq(
        lambda a: gamma(2 / a) ** 2 / (gamma(1 / a) * gamma(3 / a)) - ratio, 0.2, 10, xtol=1e-13
    )
    scale = np.sqrt(gamma(1 / alpha) / gamma(3 / alpha))
    eta = (np.sqrt(right) - np.sqrt(left)) * scale * gamma(2 / alpha) / gamma(1 / alpha)
    return alpha, eta, left, right


def test_coefficients_are_scipys() -> None:
    for image in pictures(3):
        expected = coefficients(image[0].numpy())
        np.testing.assert_allclose(contrast_normalised(image[None])[0], expected, rtol=1e-9)
    colour = pictures(2, channels=3)
    grey = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)
    expected = contrast_normalised((colour * grey.reshape(3, 1, 1)).sum(1, keepdim=True))
    torch.testing.assert_close(contrast_normalised(colour), expected)


def test_statistics_are_the_formulas() -> None:
    image = pictures(1)
    c = coefficients(image[0, 0].numpy())
    alpha, _, left, right = moments(c)
    expected = [alpha, (left + right) / 2]
    height, width = c.shape
    for down, across in ((0, 1), (1, 0), (1, 1), (1, -1)):
        products = [
            c[i, j] * c[i + down, j + across]
            for i in range(height)
            for j in range(width)
            if i + down < height and 0 <= j + across < width
        ]
        expected += moments(np.array(products))
    np.testing.assert_allclose(scene_statistics(image)[0], expected, rtol=1e-7)


def test_gradients_are_exact() -> None:
    x = pictures(2, side=8).requires_grad_()
    way = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    for feature in range(18):
        (slope,) = torch.autograd.grad(scene_statistics(x)[:, feature].sum(), x)
        with torch.no_grad():
            ends = [scene_statistics(x + h * way)[:, feature].sum() for h in (1e-6, -1e-6)]
        expected = float(ends[0] - ends[1]) / 2e-6
        assert float((slope * way).sum()) == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_flat_images_give_numbers() -> None:
    """White parts, where rounding must not choose signs, black ones, and half of each."""
    x = torch.zeros(3, 1, 10, 10)
    x[1], x[2, :, :, 5:] = 1.0, 0.7
    x.requires_grad_()
    found = scene_statistics(x)
    (slope,) = torch.autograd.grad(found.sum(), x)
    assert bool(found.isfinite().all()) and bool(slope.isfinite().all())
    assert torch.equal(found[0], found[1])
    assert int((contrast_normalised(x)[:2] != 0).sum()) == 0


def test_machine_is_that_of_the_paper(classifier: nn.Module, images: Any) -> None:
    data = Clean(images.fit.x, images.fit.y, images.fit.adversarial)
    fitted = NSS().fit(classifier, data)
    features = torch.cat([scene_statistics(data.x), scene_statistics(data.adversarial)]).numpy()
    low, high = features.min(0), features.max(0)

    def scaled(f: np.ndarray) -> np.ndarray:
        return 2 * (f - low) / (high - low) - 1

    labels = np.repeat([0, 1], len(data.x))
    machine = SVC(kernel="sigmoid", C=10, gamma=0.01).fit(scaled(features), labels)
    test = scene_statistics(images.test.x).numpy()
    expected = machine.decision_function(scaled(test))
    np.testing.assert_allclose(fitted.score(images.test.x), expected, rtol=1e-5, atol=1e-6)


def test_refusals(classifier: nn.Module) -> None:
    with pytest.raises(InputError, match="1 or 3 channels"):
        contrast_normalised(torch.rand(2, 2, 8, 8))
    with pytest.raises(InputError, match="4 x 4"):
        contrast_normalised(torch.rand(2, 1, 3, 8))
    with pytest.raises(InputError, match="cost"):
        NSS(cost=0.0)
