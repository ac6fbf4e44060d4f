"""The norms, one row each, with independent answers about them.

Adding a norm is one row of `CASES`: an independent length, projection and maximiser.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize
from torch import Tensor

from torchproof.core.norms import L0, L1, L2, Linf, Norm, name_of
from torchproof.core.sets import Ball

Array = np.ndarray[Any, Any]


# ---- independent answers, one row at a time, in numpy


def nearest_l2(d: Array, r: float, low: Array, high: Array) -> Array:
    """min |u - d|^2 with |u|^2 <= r^2 in the box, by SLSQP."""
    scale = {"type": "ineq", "fun": lambda u: r**2 - u @ u, "jac": lambda u: -2 * u}
    return solve(lambda u: ((u - d) ** 2).sum(), lambda u: 2 * (u - d), len(d), low, high, scale)


def nearest_l1(d: Array, r: float, low: Array, high: Array) -> Array:
    """The same for |u|_1 <= r, as a quadratic programme in the positive and negative parts of u."""
    n = len(d)

    def parts(v: Array) -> Array:
        return v[:n] - v[n:]

    budget = {"type": "ineq", "fun": lambda v: r - v.sum(), "jac": lambda v: -np.ones(2 * n)}
    flat = solve(
        lambda v: ((parts(v) - d) ** 2).sum(),
        lambda v: np.concatenate([2 * (parts(v) - d), -2 * (parts(v) - d)]),
        2 * n,
        np.zeros(2 * n),
        np.concatenate([high, -low]),
        budget,
    )
    return parts(flat)


def solve(
    f: Callable[[Array], float],
    jac: Callable[[Array], Array],
    n: int,
    low: Array,
    high: Array,
    constraint: dict[str, Any],
) -> Array:
    bounds = [
        (a if np.isfinite(a) else None, b if np.isfinite(b) else None)
        for a, b in zip(low, high, strict=True)
    ]
    options = {"ftol": 1e-14, "maxiter": 500}
    start = np.zeros(n)
    answer = minimize(
        f, start, jac=jac, bounds=bounds, constraints=[constraint], method="SLSQP", options=options
    )
    return np.asarray(answer.x)


def nearest_linf(d: Array, r: float, low: Array, high: Array) -> Array:
    return np.array([min(max(v, lo, -r), hi, r) for v, lo, hi in zip(d, low, high, strict=True)])


def nearest_l0(d: Array, r: float, low: Array, high: Array) -> Array:
    """Every subset of at most r coordinates, each cut to the box; the nearest."""
    inside = np.clip(d, low, high)
    best = np.zeros_like(d)
    for chosen in subsets(len(d), int(r)):
        u = np.zeros_like(d)
        u[chosen] = inside[chosen]
        if ((u - d) ** 2).sum() < ((best - d) ** 2).sum():
            best = u
    return best


def subsets(n: int, size: int) -> list[list[int]]:
    return [list(c) for k in range(min(size, n) + 1) for c in combinations(range(n), k)]


def most_l2(a: Array, r: float, low: Array, high: Array) -> float:
    """max <a, u> on ball and box by bisection on the multiplier: u = clip(s a) with the largest s
    that fits.
    """
    corner = np.where(a > 0, high, np.where(a < 0, low, 0.0))
    if np.isfinite(corner).all() and np.linalg.norm(corner) <= r:
        return float(a @ corner)
    least, most = 0.0, 1e12
    for _ in range(200):
        s = (least + most) / 2
        fits = np.linalg.norm(np.clip(s * a, low, high)) <= r
        least, most = (s, most) if fits else (least, s)
    return float(a @ np.clip(least * a, low, high))


def most_linear(a: Array, r: float, low: Array, high: Array) -> float:
    """max <a, u> over |u|_1 <= r in the box, by linear programming over positive and negative
    parts.
    """
    bounds = [(0, min(b, 1e9)) for b in [*high, *-low]]
    answer = linprog(
        np.concatenate([-a, a]), A_ub=np.ones((1, 2 * len(a))), b_ub=[r], bounds=bounds
    )
    assert answer.status == 0, answer.message
    return float(-answer.fun)


def most_linf(a: Array, r: float, low: Array, high: Array) -> float:
    answer = linprog(
        -a, bounds=[(max(lo, -r), min(hi, r)) for lo, hi in zip(low, high, strict=True)]
    )
    assert answer.status == 0, answer.message
    return float(-answer.fun)


def most_l0(a: Array, r: float, low: Array, high: Array) -> float:
    gains = np.where(a > 0, a * np.where(a > 0, high, 0), a * np.where(a < 0, low, 0))
    return max(float(gains[chosen].sum()) for chosen in subsets(len(a), int(r)))


@dataclass(frozen=True)
class Case:
    """A norm and the independent answers about it."""

    norm: Norm
    length: Callable[[Array], float]
    nearest: Callable[[Array, float, Array, Array], Array]
    most: Callable[[Array, float, Array, Array], float]
    dual: Callable[[Array], float] | None  # None: unbounded without a box
    convex: bool = True
    radii: tuple[float, ...] = (0.05, 0.3, 1.0, 2.5)


CASES = [
    Case(
        Linf(),
        lambda d: np.abs(d).max(initial=0),
        nearest_linf,
        most_linf,
        lambda a: np.abs(a).sum(),
    ),
    Case(
        L2(),
        lambda d: float(np.sqrt((d**2).sum())),
        nearest_l2,
        most_l2,
        lambda a: np.sqrt((a**2).sum()),
    ),
    Case(
        L1(), lambda d: np.abs(d).sum(), nearest_l1, most_linear, lambda a: np.abs(a).max(initial=0)
    ),
    Case(
        L0(),
        lambda d: float(np.count_nonzero(d)),
        nearest_l0,
        most_l0,
        None,
        False,
        (1.0, 2.0, 3.0, 4.7),
    ),
]
ROWS = {name_of(c.norm): c for c in CASES}


@pytest.fixture(scope="session", params=ROWS)
def case(request: pytest.FixtureRequest) -> Case:
    """Every norm, with the independent answers about it."""
    return ROWS[request.param]


@pytest.fixture(scope="session", params=[n for n, c in ROWS.items() if c.convex])
def convex(request: pytest.FixtureRequest) -> Case:
    """The norms whose balls are convex."""
    return ROWS[request.param]


@pytest.fixture(scope="session", params=[n for n, c in ROWS.items() if c.dual])
def bounded(request: pytest.FixtureRequest) -> Case:
    """The norms with a dual: a linear function is bounded on their balls without a box."""
    return ROWS[request.param]


@dataclass(frozen=True)
class Sample:
    """Rows d and a in a box seen from an image, as a ball with one radius per row."""

    d: Tensor
    a: Tensor
    ball: Ball


def sample(
    case: Case, seed: int, rows: int = 3, size: int = 5, dtype: torch.dtype = torch.float64
) -> Sample:
    """Random rows with saturated pixels (no room on one side), ties, zeros, and boxes of every
    kind.
    """
    rng = np.random.default_rng(seed)
    x = rng.choice([0.0, 1.0, 0.5, rng.uniform()], size=(rows, size))
    low, high = -x, 1 - x
    if seed % 4 == 0:
        low, high = np.full_like(x, -np.inf), np.full_like(x, np.inf)
    if seed % 4 == 1:
        high = np.where(rng.uniform(size=x.shape) < 0.3, np.inf, high)
    d = rng.normal(size=x.shape) * rng.choice([0.01, 1.0, 30.0])
    d = np.where(rng.uniform(size=x.shape) < 0.2, 0.0, d)
    a = np.round(rng.normal(size=x.shape), rng.integers(0, 5)) * rng.choice([1e-4, 1.0, 1e3])
    r = rng.choice(case.radii, size=rows)
    low_, high_, d_, a_, r_ = (torch.tensor(v, dtype=dtype) for v in (low, high, d, a, r))
    return Sample(d_, a_, Ball.of(case.norm, r_, low_, high_))


@pytest.fixture(scope="session")
def draw() -> Callable[..., Sample]:
    """`draw(case, seed, rows=, size=, dtype=)`: random rows in a ball and box."""
    return sample
