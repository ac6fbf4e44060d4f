"""Intervals against scipy's: exact binomial ones, and Student's."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from torchproof.core.errors import InputError
from torchproof.core.metrics import clopper_pearson, fallen, student


@settings(max_examples=100, deadline=None, derandomize=True)
@given(n=st.integers(1, 10_000), share=st.floats(0, 1), level=st.sampled_from([0.9, 0.95, 0.999]))
def test_interval_ends_where_the_tails_have_their_mass(n: int, share: float, level: float) -> None:
    """At the lower end `hits` or more have probability (1 - level) / 2, at the upper end `hits` or
    fewer.
    """
    hits = round(n * share)
    low, high = clopper_pearson(hits, n, level)
    assert 0 <= low <= hits / n <= high <= 1
    tail = (1 - level) / 2
    if hits > 0:
        assert stats.binom.sf(hits - 1, n, low) == pytest.approx(tail, rel=1e-6)
    if hits < n:
        assert stats.binom.cdf(hits, n, high) == pytest.approx(tail, rel=1e-6)


@pytest.mark.parametrize(("hits", "n"), [(0, 50), (50, 50), (30, 50)])
def test_as_scipy(hits: int, n: int) -> None:
    expected = stats.binomtest(hits, n).proportion_ci(0.95, method="exact")
    assert clopper_pearson(hits, n) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize(("hits", "n"), [(-1, 10), (11, 10), (0, 0)])
def test_impossible_counts_are_refused(hits: int, n: int) -> None:
    with pytest.raises(InputError):
        clopper_pearson(hits, n)


def test_the_interval_of_a_mean() -> None:
    values = [1.0, 2.5, 2.0, 4.0, 0.5]
    mean, error = statistics.fmean(values), stats.sem(values)
    assert student(values) == pytest.approx(stats.t.interval(0.95, 4, loc=mean, scale=error))
    assert student([1.0]) is None


def test_the_interval_of_a_mean_share_ends_where_shares_do() -> None:
    free = student([0.87, 0.95, 0.92])
    assert free is not None and free[1] > 1
    assert student([0.87, 0.95, 0.92], 0.0, 1.0) == (free[0], 1.0)
    assert student([0.01, 0.05], 0.0, 1.0)[0] == 0.0


@pytest.mark.parametrize(
    ("flags", "counted"),
    [([1, 1, 0, 1, 0], [0, 0, 0, 1, 0]), ([0, 1], [0, 1]), ([1, 1], [1, 1]), ([], [])],
    ids=["late start", "from the first", "never learnt", "nothing"],
)
def test_what_was_not_yet_learnt_has_not_fallen(flags: list[int], counted: list[int]) -> None:
    """A run that never learns anything has: there is no later epoch that was better."""
    assert fallen([bool(flag) for flag in flags]) == [bool(flag) for flag in counted]
