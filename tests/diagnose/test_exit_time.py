"""Exit times of simulated Levy-driven motion against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest

from torchproof.core.errors import InputError
from torchproof.diagnose.exit_time import Well, exit_time, free_exit_time, predicted_exit_time

# In discrete steps a walker is caught about so many deviations of a Gaussian step beyond the edge.
OVERSHOOT = 0.5826


@pytest.mark.parametrize("alpha", [1.2, 1.5])
def test_free_motion_leaves_an_interval_after_the_exact_time(alpha: float) -> None:
    found = exit_time(Well(1, 0), alpha, 0.3, walkers=1500, step=0.01)
    exact = free_exit_time(1, alpha, 0.3)
    assert found.mean == pytest.approx(exact, rel=0.12)  # steps of 0.01 see exits late
    assert found.left == found.walkers == 1500 and found.low < found.mean < found.high
    assert free_exit_time(2, 2.0, 1.0) == 2.0  # a^2 / 2


@pytest.mark.slow
def test_levy_noise_leaves_by_the_width_and_not_by_the_height() -> None:
    alpha, scale = 1.2, 0.15
    times = {}
    for width in (1.0, 2.0):
        for height in (0.5, 1.0):
            found = exit_time(Well(width, height), alpha, scale, walkers=400, step=0.04)
            theory = predicted_exit_time(Well(width, height), alpha, scale)
            assert found.mean == pytest.approx(theory, rel=0.15)
            times[width, height] = found.mean
    assert times[1, 1] / times[1, 0.5] == pytest.approx(1, abs=0.15)
    assert times[2, 1] / times[1, 1] == pytest.approx(2**alpha, rel=0.2)


@pytest.mark.slow
def test_gaussian_noise_leaves_by_the_height() -> None:
    scale, step = 0.5, 0.004
    edge = 1 + OVERSHOOT * scale * math.sqrt(2 * step)
    means = []
    for height in (0.25, 0.75):
        found = exit_time(Well(1, height), 2.0, scale, walkers=600, step=step)
        theory = predicted_exit_time(Well(edge, height * edge**2), 2.0, scale)
        assert found.mean == pytest.approx(theory, rel=0.12)
        means.append(found.mean)
    assert means[1] / means[0] > 2


def test_the_gaussian_theory_against_a_difference_scheme() -> None:
    """s^2 T'' - U' T' = -1 on [-a, a], T = 0 at both ends."""
    well, scale, n = Well(1.5, 1.2), 0.6, 2001
    w = np.linspace(-1.5, 1.5, n)
    h = w[1] - w[0]
    pull = 2 * well.height * w / well.half_width**2
    matrix = np.zeros((n, n))
    inner = np.arange(1, n - 1)
    matrix[inner, inner] = -2 * scale**2 / h**2
    matrix[inner, inner - 1] = scale**2 / h**2 + pull[1:-1] / (2 * h)
    matrix[inner, inner + 1] = scale**2 / h**2 - pull[1:-1] / (2 * h)
    matrix[0, 0] = matrix[-1, -1] = 1
    wanted = np.linalg.solve(matrix, np.r_[0, -np.ones(n - 2), 0])[n // 2]
    assert predicted_exit_time(well, 2.0, scale) == pytest.approx(wanted, rel=1e-4)


def test_those_who_stay_count_and_seeds_matter() -> None:
    well = Well(1, 1)
    part = exit_time(well, 1.5, 0.2, walkers=400, step=0.02, longest=20)
    assert 0 < part.left < 400
    assert part.mean == pytest.approx(predicted_exit_time(well, 1.5, 0.2), rel=0.25)
    again = exit_time(well, 1.5, 0.2, walkers=400, step=0.02, longest=20)
    other = exit_time(well, 1.5, 0.2, walkers=400, step=0.02, longest=20, seed=1)
    assert again == part and other != part


def test_what_is_refused() -> None:
    with pytest.raises(InputError, match="half width > 0"):
        Well(0, 1)
    with pytest.raises(InputError, match="step smaller"):
        exit_time(Well(1, 100), 1.5, 0.1, step=0.01)
    with pytest.raises(InputError, match="no exit of 5"):
        exit_time(Well(1, 1), 2.0, 0.01, walkers=5, longest=1)
    with pytest.raises(InputError, match="a height > 0"):
        predicted_exit_time(Well(1, 0), 1.5, 0.1)
