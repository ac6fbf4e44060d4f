"""Several measurements as one score: bits are what they say they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from torchproof.core.errors import InputError
from torchproof.detect.parts.surprise import Surprise


def drawn(n: int, seed: int) -> torch.Tensor:
    """(n, 2) draws: one with a light tail, one with a heavy one."""
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand(n, 2, generator=generator, dtype=torch.float64)
    return torch.stack([uniform[:, 0], uniform[:, 1] ** -2], 1)


def test_bits_are_minus_the_logarithm_of_the_share_above() -> None:
    bits = Surprise(drawn(20000, 0))(drawn(50000, 1))
    for rate in (0.5, 0.2, 0.05, 0.01):
        above = (bits > np.log2(1 / rate)).double().mean(0)
        assert torch.allclose(above, torch.full_like(above, rate), atol=0.1 * rate + 0.004)


def test_knots_equal_interpolation_of_numpy() -> None:
    clean = drawn(512, 2)
    surprise = Surprise(clean)
    levels = 1 - 0.5 ** np.arange(8)
    assert surprise.knots.shape == (8, 2)  # 2^-7 of 512 images is 4
    knots = np.quantile(clean.numpy()[:, 0], levels)
    within = np.linspace(knots[0], knots[-1], 100)
    found = surprise(torch.tensor(within)[:, None].expand(-1, 2))[:, 0]
    assert np.allclose(found.numpy(), np.interp(within, knots, np.arange(8)), atol=1e-9)


def test_it_rises_without_end_and_its_slope_is_its_gradient() -> None:
    surprise = Surprise(drawn(100, 3))
    x = torch.linspace(-5, 20, 400, dtype=torch.float64)[:, None].expand(-1, 2)
    assert bool((surprise(x).diff(dim=0) > 0).all())
    points = torch.tensor([[-1.0, -1.0], [0.3, 1.7], [5.0, 1e6]], dtype=torch.float64)
    assert torch.autograd.gradcheck(surprise, (points.requires_grad_(),))


@pytest.mark.parametrize("value", [0.0, 7.0, 1e-30])
def test_equal_measurements_do_no_harm(value: float) -> None:
    clean = torch.full((64, 2), value, dtype=torch.float64)
    clean[:8, 1] += 1.0
    bits = Surprise(clean)(torch.cat([clean, clean + 1.0]))
    assert bool(bits.isfinite().all())
    assert bool((bits[:64, 0] == 0).all()) and bool((bits[64:] > bits[:64]).all())


def test_too_few_images_and_numbers_that_are_none_are_refused() -> None:
    for bad in (torch.zeros(7, 2), torch.zeros(20), torch.full((20, 1), torch.nan)):
        with pytest.raises(InputError):
            Surprise(bad)
