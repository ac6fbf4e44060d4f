"""Programmes by themselves: what multipliers prove, what has no bound, integers."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
from scipy import sparse

from torchproof.verify.programme import Answer, Programme, dual_value, integer, least, least_integer

SLACK = 1e-4  # more than the solver's tolerances take off these bounds


def some(seed: int, integers: bool = False) -> tuple[Programme, np.ndarray]:
    """A feasible programme of 12 variables in boxes, with equations, and an objective."""
    random = np.random.default_rng(seed)
    matrix, inside = random.normal(size=(9, 12)), random.integers(0, 2, 12).astype(float)
    most = matrix @ inside + np.where(np.arange(9) < 3, 0, random.random(9))
    least_ = np.where(np.arange(9) < (0 if integers else 3), most, -np.inf)
    low, high, whole = np.full(12, -1.0), np.full(12, 2.0), np.full(12, integers)
    slack = np.zeros(len(most))
    made = Programme(sparse.csr_array(matrix), least_, most, low, high, whole, slack)
    return made, random.normal(size=12)


@pytest.mark.parametrize("seed", range(5))
def test_any_multipliers_are_below_the_optimum(seed: int) -> None:
    programme, c = some(seed)
    found = least(programme, c)
    assert found.status == "solved" and found.point is not None
    optimum = float(c @ found.point)
    assert optimum - 1e-6 <= found.bound <= optimum + 1e-9
    random = np.random.default_rng(seed)
    for y in random.normal(size=(50, 9)):
        assert dual_value(programme, c, y).bound <= optimum + 1e-9


def test_what_is_infeasible_or_late_has_no_bound() -> None:
    programme, c = some(0)
    impossible = copy.copy(programme)
    object.__setattr__(impossible, "most", programme.most - 100)
    object.__setattr__(impossible, "least", np.where(programme.ties, impossible.most, -np.inf))
    for whole in (np.zeros(12, dtype=bool), np.ones(12, dtype=bool)):
        object.__setattr__(impossible, "integer", whole)
        assert least_integer(impossible, c)[:3:2] == (-np.inf, "infeasible")
    assert least(programme, c, 0.0) == Answer(-np.inf, None, "limit")
    assert least_integer(programme, c, 0.0) == Answer(-np.inf, None, "limit")


@pytest.mark.parametrize("solver", ["highspy", "scipy"])
def test_integers_against_all_corners(solver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if solver == "highspy":
        pytest.importorskip("highspy", reason="the extra milp is not installed")
    else:
        monkeypatch.setattr(integer, "_highspy", lambda: None)
    programme, c = some(1, integers=True)
    low = programme.most - programme.matrix @ np.full(12, 1.0)
    corners = np.array(list(itertools.product((-2.0, -1.0, 0.0, 1.0), repeat=6)))
    left, right = corners @ programme.matrix[:, :6].T, corners @ programme.matrix[:, 6:].T
    best = min(
        float((c[:6] @ one) + (corners @ c[6:])[(right + row <= low + 1e-9).all(1)].min(initial=99))
        for one, row in zip(corners, left, strict=True)
    ) + c.sum()  # fmt: skip
    found = least_integer(programme, c)
    assert found.status == "solved" and best - SLACK <= found.bound <= best
