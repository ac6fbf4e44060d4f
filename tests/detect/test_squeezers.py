"""Squeezers against numpy, scipy and a loop over pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import median_filter
from torch import Tensor

from torchproof.core.errors import InputError
from torchproof.detect.parts.squeezers import (
    CIFAR10,
    IMAGENET,
    MNIST,
    BitDepth,
    Median,
    NonLocalMeans,
    Squeezer,
    mirrored,
)


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("bits", [1, 3, 5, 8])
def test_bit_depth_equals_numpy(bits: int) -> None:
    x = torch.cat([images(3, 2, 9, 7).flatten(), torch.tensor([0.0, 0.5, 1.0])]).view(1, 1, 1, -1)
    levels = 2**bits - 1
    expected = np.rint(x.numpy() * levels) / levels
    assert np.array_equal(BitDepth(bits)(x).numpy(), expected)


@pytest.mark.parametrize("bits", [1, 3])
def test_bit_depth_is_backwards_a_staircase_of_sigmoids(bits: int) -> None:
    """Slope 1 on average, the steepest at the steps, everywhere that of the sigmoid of a step."""
    levels = 2**bits - 1
    x = ((torch.arange(1000, dtype=torch.float64) + 0.5) / 1000).view(1, 1, 1, -1).requires_grad_()
    (grad,) = torch.autograd.grad(BitDepth(bits)(x).sum(), x)
    assert abs(float(grad.mean()) - 1) < 0.02
    through = (x.detach() * levels) % 1 - 0.5
    p = 1 / (1 + (-10 * through).exp())
    assert torch.allclose(grad, 10 * p * (1 - p))
    assert float(through[grad == grad.max()].abs().max()) < 0.01


@pytest.mark.parametrize("window", [2, 3, 4, 5])
def test_median_equals_scipy(window: int) -> None:
    x = images(3, 2, 9, 7)
    expected = median_filter(x.numpy(), size=(1, 1, window, window), mode="reflect")
    assert np.array_equal(Median(window)(x).numpy(), expected)


def test_median_of_images_smaller_than_the_window_equals_scipy() -> None:
    x = images(2, 1, 3, 2)
    expected = median_filter(x.numpy(), size=(1, 1, 7, 7), mode="reflect")
    assert np.array_equal(Median(7)(x).numpy(), expected)


def naive_means(x: np.ndarray, search: int, patch: int, strength: float) -> np.ndarray:
    """One image (C, H, W), pixel by pixel."""
    reach, half, h = search // 2, patch // 2, strength / 255
    wide = np.pad(x, ((0, 0), (reach + half,) * 2, (reach + half,) * 2), mode="reflect")

    def block(i: int, j: int) -> np.ndarray:
        return wide[:, i - half : i + half + 1, j - half : j + half + 1]

    out = np.zeros_like(x)
    for i, j in np.ndindex(*x.shape[1:]):
        a, b = i + reach + half, j + reach + half
        total, weights = np.zeros(len(x)), 0.0
        for di, dj in np.ndindex(2 * reach + 1, 2 * reach + 1):
            c, d = a + di - reach, b + dj - reach
            weight = np.exp(-np.mean((block(a, b) - block(c, d)) ** 2) / h**2)
            total, weights = total + weight * wide[:, c, d], weights + weight
        out[:, i, j] = total / weights
    return out


@pytest.mark.parametrize(("search", "patch", "strength"), [(5, 3, 60.0), (4, 2, 9.0), (3, 1, 80.0)])
def test_non_local_means_equal_a_loop(search: int, patch: int, strength: float) -> None:
    x = images(2, 3, 8, 7)
    found = NonLocalMeans(search, patch, strength)(x).numpy()
    expected = np.stack([naive_means(one, search, patch, strength) for one in x.numpy()])
    assert np.allclose(found, expected, rtol=1e-10, atol=1e-12)
    if strength > 20:  # it does something
        assert np.abs(found - x.numpy()).max() > 0.01


def test_an_even_image_is_left_as_it_is() -> None:
    x = torch.full((1, 3, 6, 6), 0.3, dtype=torch.float64)
    for squeeze in (Median(3), NonLocalMeans()):
        assert torch.allclose(squeeze(x), x, atol=1e-12)


@pytest.mark.parametrize("squeeze", [Median(2), Median(3), NonLocalMeans(3, 3, 60.0)])
def test_gradients_are_exact(squeeze: Squeezer) -> None:
    x = images(1, 2, 4, 3).requires_grad_()
    assert torch.autograd.gradcheck(squeeze, (x,))


@pytest.mark.parametrize("squeeze", {*MNIST, *CIFAR10, *IMAGENET})
def test_rows_do_not_depend_on_each_other(squeeze: Squeezer) -> None:
    x = images(3, 3, 8, 8).float()
    apart = torch.cat([squeeze(row[None]) for row in x])
    assert torch.allclose(squeeze(x), apart, atol=1e-6)
    assert squeeze(x).shape == x.shape and squeeze(x).dtype == x.dtype


def test_a_mirror_equals_numpy() -> None:
    x = images(1, 1, 3, 4)
    pad = ((0, 0), (0, 0), (7, 5), (7, 5))
    assert np.array_equal(mirrored(x, 7, 5).numpy(), np.pad(x.numpy(), pad, mode="reflect"))
    twice = np.pad(x.numpy(), pad, mode="symmetric")
    assert np.array_equal(mirrored(x, 7, 5, twice=True).numpy(), twice)
    assert torch.equal(mirrored(x[..., :1, :1], 2, 1), x[..., :1, :1].expand(1, 1, 4, 4))


def test_settings_nobody_can_mean_are_refused() -> None:
    for make in (
        lambda: BitDepth(0),
        lambda: BitDepth(2.5),  # type: ignore[arg-type]
        lambda: Median(1),
        lambda: NonLocalMeans(0),
        lambda: NonLocalMeans(patch=0),
        lambda: NonLocalMeans(strength=0.0),
    ):
        with pytest.raises(InputError):
            make()
