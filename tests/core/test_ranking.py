"""AUROC, average precision and rates against scikit-learn and against counting."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from torchproof.core.errors import InputError
from torchproof.core.ranking import Roc, auroc, auroc_interval, average_precision, caught_at

GROUP = st.lists(st.integers(0, 8).map(float), min_size=1, max_size=30)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(low=GROUP, high=GROUP)
def test_areas_equal_scikit_learns(low: list[float], high: list[float]) -> None:
    truth, scores = [0] * len(low) + [1] * len(high), [*low, *high]
    assert auroc(low, high) == pytest.approx(roc_auc_score(truth, scores))
    expected = average_precision_score(truth, scores)
    assert average_precision(low, high) == pytest.approx(expected)
    fpr, tpr, _ = roc_curve(truth, scores, drop_intermediate=False)
    curve = Roc.of(low, high)
    assert np.allclose(curve.false_alarms, fpr) and np.allclose(curve.found, tpr)
    assert curve.thresholds[0] == math.inf and curve.area == auroc(low, high)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(low=GROUP, high=GROUP, fpr=st.sampled_from([0.0, 0.05, 0.1, 0.3, 0.5]))
def test_rates_equal_those_of_the_best_threshold(
    low: list[float], high: list[float], fpr: float
) -> None:
    """No threshold with at most that share of false alarms finds more."""
    found = caught_at(low, high, fpr)
    assert sum(s > found.threshold for s in low) / len(low) <= fpr
    cuts = [-1.0, *low, *high]
    allowed = [c for c in cuts if sum(s > c for s in low) / len(low) <= fpr + 1e-12]
    best = max(sum(s > c for s in high) / len(high) for c in allowed)
    assert found.share == pytest.approx(best)
    assert found.ci95[0] <= found.share <= found.ci95[1]


def test_the_interval_of_the_area_covers() -> None:
    """Normal scores a distance apart: the true area lies in 95 % of the intervals, or nearly."""
    generator = torch.Generator().manual_seed(0)
    true, held = 0.5 * (1 + math.erf(1.5 / 2)), 0
    for _ in range(400):
        low = torch.randn(40, generator=generator)
        high = torch.randn(30, generator=generator) + 1.5
        one, other = auroc_interval(auroc(low, high), 40, 30)
        held += one <= true <= other
    assert held >= 0.92 * 400


def test_perfect_order_has_an_interval_with_a_width() -> None:
    low, high = auroc_interval(1.0, 12, 12)
    assert 0.7 < low < 1 and high == 1


@pytest.mark.parametrize("pair", [([], [1.0]), ([1.0], []), ([math.nan], [1.0])])
def test_empty_groups_and_nan_are_refused(pair: tuple[list[float], list[float]]) -> None:
    for function in (auroc, average_precision, Roc.of):
        with pytest.raises(InputError, match="none NaN"):
            function(*pair)


def test_a_rate_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match="0 <= fpr < 1"):
        caught_at([1.0], [2.0], 1.0)
