"""From counts to statements: bounds, CERTIFY and PREDICT."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from scipy.stats import beta, binom, binomtest, multinomial, norm

from torchproof.core.errors import InputError
from torchproof.verify.smoothing import (
    ABSTAIN,
    Ablation,
    Gaussian,
    Laplace,
    Uniform,
    certify,
    largest_radius,
    lower_bound,
    predict,
    upper_bound,
)


def test_clopper_pearson_is_that_of_scipy() -> None:
    for n in (1, 7, 100, 100_000):
        k = np.unique(np.linspace(0, n, 23).astype(int))
        for alpha in (0.05, 0.001):
            assert lower_bound(k[1:], n, alpha) == pytest.approx(
                beta.ppf(alpha, k[1:], n - k[1:] + 1), rel=1e-9
            )
            assert upper_bound(k[:-1], n, alpha) == pytest.approx(
                beta.ppf(1 - alpha, k[:-1] + 1, n - k[:-1]), rel=1e-9
            )
            two = binomtest(int(k[len(k) // 2]), n).proportion_ci(1 - 2 * alpha, method="exact")
            found = lower_bound(k[len(k) // 2], n, alpha), upper_bound(k[len(k) // 2], n, alpha)
            assert found == pytest.approx((two.low, two.high), rel=1e-9)
    assert lower_bound(0, 9, 0.1) == 0 and upper_bound(9, 9, 0.1) == 1
    assert lower_bound(9, 9, 0.1) == pytest.approx(0.1 ** (1 / 9), rel=1e-15)
    assert lower_bound(10**17, 10**17, 0.001) < 1


def test_the_lower_bound_is_wrong_as_seldom_as_it_says() -> None:
    n, alpha = 40, 0.05
    k = np.arange(n + 1)
    for p in np.linspace(0.02, 0.98, 25):
        wrong = lower_bound(k, n, alpha) > p
        assert binom.pmf(k[wrong], n, p).sum() <= alpha


def test_both_bounds_together_are_wrong_as_seldom_as_they_say() -> None:
    """The runner-up's bound comes from the largest other count, whichever class is next really."""
    n, alpha = 24, 0.2
    triples = [(i, j, n - i - j) for i in range(n + 1) for j in range(n + 1 - i)]
    for p in ([0.5, 0.25, 0.25], [0.6, 0.3, 0.1], [0.34, 0.33, 0.33], [0.9, 0.05, 0.05]):
        wrong = 0.0
        for counts in triples:
            found = certify((1, 0, 0), counts, Gaussian(1.0), alpha, runner_up=True)
            if found.lower > p[0] or found.upper < max(p[1:]):
                wrong += float(multinomial.pmf(counts, n, p))
        assert wrong <= alpha


def test_the_largest_radii() -> None:
    for sigma, radius in ((0.12, 0.457), (0.25, 0.953), (0.5, 1.906), (1.0, 3.811)):
        assert round(largest_radius(Gaussian(sigma), 100_000, 0.001), 3) == radius
        closed = sigma * norm.ppf(0.001 ** (1 / 100_000))
        assert largest_radius(Gaussian(sigma)) == pytest.approx(closed, rel=1e-9)
    p = 0.001 ** (1 / 1000)
    assert largest_radius(Uniform(1.0), 1000) == pytest.approx(2 * math.sqrt(3) * (p - 0.5))
    assert largest_radius(Laplace(1.0), 1000) == pytest.approx(-math.log(2 - 2 * p) / math.sqrt(2))


def test_certify_is_algorithm_1() -> None:
    found = certify([3, 90, 7], [40, 930, 30], Gaussian(0.5), 0.001)
    p = beta.ppf(0.001, 930, 71)
    assert (found.prediction, found.candidate) == (1, 1)
    assert found.lower == pytest.approx(p) and found.upper == pytest.approx(1 - p)
    assert found.radius == pytest.approx(0.5 * norm.ppf(p))
    # the class comes from the selection, even where the estimation prefers another
    other = certify([90, 3, 7], [40, 930, 30], Gaussian(0.5))
    assert (other.prediction, other.candidate, other.radius) == (ABSTAIN, 0, 0.0)
    unsure = certify([0, 9], [490, 510], Gaussian(0.5))
    assert (unsure.prediction, unsure.radius) == (ABSTAIN, 0.0)


def test_a_bound_of_the_runner_up_helps_where_the_rest_is_spread() -> None:
    counts = [600] + [40] * 10
    one = certify(counts, counts, Gaussian(1.0))
    two = certify(counts, counts, Gaussian(1.0), runner_up=True)
    a, b = beta.ppf(0.0005, 600, 401), beta.ppf(0.9995, 41, 960)
    assert two.radius == pytest.approx((norm.ppf(a) - norm.ppf(b)) / 2)
    assert two.radius > 2 * one.radius > 0
    # no majority is needed
    counts = [400] + [60] * 10
    assert certify(counts, counts, Gaussian(1.0)).prediction == ABSTAIN
    assert certify(counts, counts, Gaussian(1.0), runner_up=True).prediction == 0
    # with two classes it is 1 - pA, from a bound that is weaker
    pair = certify([9, 1], [900, 100], Gaussian(1.0), runner_up=True)
    assert pair.radius == pytest.approx(norm.ppf(beta.ppf(0.0005, 900, 101)))


def test_other_noise_and_other_theories() -> None:
    counts = [5, 995]
    p = beta.ppf(0.001, 995, 6)
    for noise, radius in (
        (Laplace(0.5), -0.5 / math.sqrt(2) * math.log(2 - 2 * p)),
        (Uniform(0.5), math.sqrt(3) * (p - 0.5)),
    ):
        assert certify(counts, counts, noise).radius == pytest.approx(radius)
    assert certify(counts, counts, Ablation(20, 64)).radius == 1.0
    renyi = certify(counts, counts, Gaussian(0.5), by="renyi")
    assert 0 < renyi.radius < certify(counts, counts, Gaussian(0.5)).radius


def test_predict_is_a_two_sided_test_of_the_first_two() -> None:
    for first, second, third in itertools.product((3, 20, 60), (0, 2, 19, 45), (0, 1)):
        counts = [third, first, second]
        top, next_ = sorted(counts)[:0:-1]
        for alpha in (0.001, 0.05):
            sure = binomtest(top, top + next_, 0.5).pvalue <= alpha
            assert predict(counts, alpha) == (counts.index(top) if sure else ABSTAIN), counts
    assert predict([10, 10]) == ABSTAIN and predict([0, 1000]) == 1


@pytest.mark.parametrize(
    ("counts", "alpha", "said"),
    [
        ([1, -1], 0.1, "counts"),
        ([0, 0], 0.1, "counts"),
        ([5], 0.1, "counts"),
        ([0.5, 1], 0.1, "counts"),
        ([[1, 2]], 0.1, "counts"),
        ([float("nan"), 1], 0.1, "counts"),
        ([5, 1], 0.0, "alpha"),
        ([5, 1], 1.0, "alpha"),
        ([5, 1], True, "alpha"),
    ],
)
def test_counts_and_levels_nobody_can_mean(counts: Any, alpha: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        certify(counts, counts, Gaussian(1.0), alpha)
    with pytest.raises(InputError, match=said):
        predict(counts, alpha)


def test_other_refusals() -> None:
    with pytest.raises(InputError, match="2 and 3 classes"):
        certify([1, 2], [1, 2, 3], Gaussian(1.0))
    for hits, n in ((3, 2), (-1, 2), (0, 0)):
        with pytest.raises(InputError, match="of"):
            lower_bound(hits, n, 0.1)
    with pytest.raises(InputError, match="sigma"):
        Gaussian(0.0)
