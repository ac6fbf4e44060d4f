"""Programmes by themselves: what multipliers prove, what has no bound, integers."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import sparse
from scipy.optimize import linprog
from torch import nn

from torchproof.core.norms import L2
from torchproof.core.threats import Threat
from torchproof.verify.milp import milp_margins
from torchproof.verify.programme import Answer, Programme, dual_value, least, least_integer
from torchproof.verify.programme.solve import impossible

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


def test_integers_against_all_corners() -> None:
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
    assert found.point is not None and float(c @ found.point) == pytest.approx(best)


@pytest.mark.parametrize(
    ("seed", "sizes"), [(24, (9, 12, 2)), (25, (9, 12, 2)), (31, (6, 8, 6, 2))]
)
def test_integers_of_networks_against_all_signs(
    seed: int, sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of networks around L2 balls, for which HiGHS's own search with integers (release 1.12) called
    points optimal that are up to 0.008 above the optimum.
    """
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for wide, narrow in itertools.pairwise(sizes):
        layers += [nn.Linear(wide, narrow), nn.ReLU()]
    model = nn.Sequential(nn.Flatten(), *layers[:-1]).double().eval()
    x = torch.rand(1, sizes[0]).double().view(1, 1, 1, -1)
    asked: list[tuple[Programme, np.ndarray, float]] = []

    def noted(programme: Programme, c: np.ndarray, seconds: float = np.inf) -> Answer:
        found = least_integer(programme, c, seconds)
        assert found.status == "solved"
        asked.append((programme, c, found.bound))
        return found

    monkeypatch.setattr("torchproof.verify.milp.least_integer", noted)
    milp_margins(model, x, model(x).argmax(1), Threat(L2(), 0.4))
    assert len(asked) > 1
    for programme, c, bound in asked:
        best = np.inf
        places = np.flatnonzero(programme.integer)
        for signs in itertools.product((0.0, 1.0), repeat=len(places)):
            low, high = programme.low.copy(), programme.high.copy()
            low[places] = high[places] = signs
            best = min(best, _optimum(replace(programme, low=low, high=high), c))
        assert best - 1e-5 <= bound <= best + 1e-9


def _optimum(programme: Programme, c: np.ndarray) -> float:
    """By the simplex; infinite where nothing is feasible."""
    box, matrix = np.stack([programme.low, programme.high], 1), programme.matrix
    assert not programme.ties.any() or np.isfinite(programme.most).all()
    found = linprog(
        c, matrix[~programme.ties], programme.most[~programme.ties],
        matrix[programme.ties], programme.most[programme.ties], bounds=box, method="highs-ds",
    )  # fmt: skip
    return float(found.fun) if found.status == 0 else np.inf


def test_a_search_that_is_stopped_has_a_bound() -> None:
    programme, c = some(2, integers=True)
    whole = least_integer(programme, c)
    assert whole.point is not None
    seen: list[float] = []

    def stopped(bound: float, best: float) -> bool:
        seen.append(bound)
        return len(seen) == 3

    found = least_integer(programme, c, enough=stopped)
    assert found.status == "enough" and found.bound == seen[-1] <= whole.bound
    assert seen == sorted(seen) and seen[0] < seen[-1]


def test_what_has_no_point_is_proven() -> None:
    """By multipliers: nothing is impossible because the solver says so."""
    programme, _ = some(0)
    assert not impossible(programme)
    far = replace(programme, most=programme.most - 100, least=np.full(9, -np.inf))
    assert impossible(far) and not impossible(far, 0.0)
    tied = replace(programme, least=programme.most + 1000, most=programme.most + 1000)
    assert tied.ties.all() and impossible(tied)


@pytest.mark.parametrize("kind", ["outside", "nothing", "failing late", "not a number"])
def test_a_solver_that_errs_costs_time_and_not_soundness(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Points outside their boxes, no answers, multipliers of another programme."""
    programme, c = some(4, integers=True)
    truth, asked = least_integer(programme, c), list[int]()
    random = np.random.default_rng(0)

    def erring(part: Programme, c: np.ndarray, seconds: float = np.inf) -> Answer:
        asked.append(1)
        fixed = int((part.low == part.high).sum())
        if kind == "nothing" or (kind == "failing late" and fixed >= 3):
            return Answer(-np.inf, None, "failed")
        found = least(part, c)
        if found.point is None or kind == "failing late":
            return found
        shift = random.normal(size=len(c)) * (1e-3 if kind == "outside" else np.nan)
        y = random.normal(size=len(part.most))
        value = dual_value(part, c, y)
        return Answer(value.bound, found.point + shift, "solved", y, value.error)

    monkeypatch.setattr("torchproof.verify.programme.integer.least", erring)
    seen: list[float] = []
    found = least_integer(programme, c, 0.5, lambda bound, best: bool(seen.append(bound)))
    assert found.bound <= truth.bound + 1e-9 and seen == sorted(seen)
    assert found.status in ("solved", "limit", "failed", "infeasible") and asked
