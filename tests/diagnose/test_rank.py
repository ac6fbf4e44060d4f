"""Rank correlations against scipy, naive loops and small cases by hand."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from scipy import stats

from torchproof.core.errors import InputError
from torchproof.diagnose.rank import (
    concordance,
    granulated,
    interval,
    kendall,
    mutual_information,
)


def drawn(seed: int, n: int, levels: int) -> list[float]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(levels, (n,), generator=generator).double().tolist()


@pytest.mark.parametrize("levels", [3, 1000])
def test_kendall_is_scipys(levels: int) -> None:
    for seed in range(5):
        a, b = drawn(seed, 12, levels), drawn(seed + 50, 12, 1000)
        assert kendall(a, b) == pytest.approx(stats.kendalltau(a, b).statistic)
        pairs = list(itertools.permutations(range(12), 2))
        agree = sum(math.copysign(1, (a[i] - a[j]) * (b[i] - b[j])) for i, j in pairs
                    if (a[i] - a[j]) * (b[i] - b[j]))  # fmt: skip
        assert concordance(a, b) == pytest.approx(agree / len(pairs))


def test_a_measure_without_variation_has_no_tau() -> None:
    assert kendall([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]) is None
    assert interval([1.0, 1.0], [1.0, 2.0]) is None
    assert concordance([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]) == 0
    assert kendall([1.0, math.inf, math.inf], [1.0, 2.0, 2.0]) == 1


def test_the_interval_holds_tau_and_shrinks() -> None:
    few, many = list(range(8)), list(range(60))
    a, b = ([v + 3 * (v % 3) for v in some] for some in (few, many))
    one, other = interval(a, few), interval(b, many)
    assert one is not None and other is not None
    assert one[0] <= (kendall(a, few) or 0) <= one[1]
    assert other[1] - other[0] < one[1] - one[0]


# A grid of two axes: the measure follows the first axis and runs against the gap along the second.
SETTINGS = [{"a": a, "b": b, "seed": s} for a in (0, 1, 2) for b in (0, 1) for s in (0, 1)]
GAP = [10.0 * s["a"] + s["b"] + 0.1 * s["seed"] for s in SETTINGS]
MEASURE = [10.0 * s["a"] - s["b"] + 0.1 * s["seed"] for s in SETTINGS]


def test_the_granulated_tau_looks_along_one_axis_alone() -> None:
    found = granulated(MEASURE, GAP, SETTINGS, ("a", "b"))
    assert dict(found.axes) == {"a": 1.0, "b": -1.0} and found.mean == 0
    assert (kendall(MEASURE, GAP) or 0) > 0.6  # which the pooled one hides
    with pytest.raises(InputError, match="alone"):
        granulated(MEASURE[:2], GAP[:2], SETTINGS[:2], ("a",))


def test_information_is_all_for_the_gap_and_none_for_a_constant() -> None:
    every = mutual_information(GAP, GAP, SETTINGS, ("a", "b"), most=1)
    assert every.least == pytest.approx(1)
    against = mutual_information([-v for v in GAP], GAP, SETTINGS, ("a", "b"), most=1)
    assert against.least == pytest.approx(1)  # the sign of the relation does not matter
    nothing = mutual_information([1.0] * 12, GAP, SETTINGS, ("a", "b"), most=1)
    assert nothing.least == 0


def test_information_given_an_axis_is_what_is_left() -> None:
    """A measure that is the axis itself tells nothing once the axis is known."""
    axis = [float(s["a"]) for s in SETTINGS]
    found = dict(mutual_information(axis, GAP, SETTINGS, ("a", "b"), most=2).given)
    assert found[()] is not None and found[()] > 0.5
    assert found[("a",)] == pytest.approx(0)
    # by hand: signs (m, g) over ordered pairs, m in {-1, 0, 1}
    pairs = list(itertools.permutations(range(12), 2))
    signs = [(_sign(axis[i] - axis[j]), _sign(GAP[i] - GAP[j])) for i, j in pairs]
    joint = {s: signs.count(s) / len(signs) for s in signs}
    first = {m: sum(p for (a, _), p in joint.items() if a == m) for m in (-1, 0, 1)}
    second = {g: sum(p for (_, b), p in joint.items() if b == g) for g in (-1, 1)}
    known = sum(p * math.log(p / first[m] / second[g]) for (m, g), p in joint.items())
    entropy = -sum(p * math.log(p) for p in second.values())
    assert found[()] == pytest.approx(known / entropy)


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def test_where_settings_leave_nothing_to_tell_there_is_none() -> None:
    settings = [{"a": i} for i in range(4)]
    found = mutual_information([1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0], settings, ("a",))
    assert dict(found.given)[("a",)] is None and found.least == pytest.approx(1)


def test_lists_that_do_not_match_are_refused() -> None:
    for a, b in (([1.0], [1.0]), ([1.0, 2.0], [1.0]), ([1.0, math.nan], [1.0, 2.0])):
        with pytest.raises(InputError):
            kendall(a, b)
    with pytest.raises(InputError):
        granulated([1.0, 2.0], [1.0, 2.0], [{"a": 1}], ("a",))
