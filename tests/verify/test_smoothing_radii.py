"""Radii against computations that share no formula with them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.stats import laplace, norm, uniform

from torchproof.core.errors import InputError, UnknownName
from torchproof.verify.smoothing import divergences, hockey_stick, neyman_pearson, privacy, renyi
from torchproof.verify.smoothing.ablation import ablation_l0, unseen
from torchproof.verify.smoothing.theories import THEORIES, theory

PAIRS = [(0.6, 0.4), (0.9, 0.1), (0.99, 0.01), (0.6, 0.1), (0.9, 0.01), (0.5, 0.001), (0.4, 0.3)]
A, B = (np.array(part) for part in zip(*PAIRS, strict=True))
LAWS = {
    "gaussian": (norm.pdf, 12.0),
    "laplace": (laplace.pdf, 30.0),
    "uniform": (lambda z: uniform.pdf(z, -1, 2), 3.0),
}
CASES = [(t, kind) for t, row in THEORIES.items() for kind in row if kind != "ablation"]


def worst(p: float, rho: Any, nu: Any, order: Any) -> float:
    """The nu-mass of a set of rho-mass p that takes points in this order."""
    here, after = rho[order], np.cumsum(rho[order])
    free = np.where(after < p, 1.0, 0.0)
    share = np.divide(p - (after - here), here, out=free, where=here > 0)
    return float((np.clip(share, 0, 1) * nu[order]).sum())


def numerical(kind: str, a: float, b: float) -> float:
    """The distance at which level sets of the likelihood ratio on a grid of the line meet."""
    density, reach = LAWS[kind]
    z = np.linspace(-reach, reach, 20_001)
    rho = density(z)
    low, high = 0.0, reach / 2
    for _ in range(16):
        middle = (low + high) / 2
        nu = density(z - middle)
        seen = rho + nu > 0
        ratio = np.divide(nu, rho, out=np.full_like(z, np.inf), where=rho > 0)
        order = np.argsort(ratio, kind="stable")
        order = order[seen[order]]
        own = worst(a, rho / rho.sum(), nu / nu.sum(), order)
        other = worst(b, rho / rho.sum(), nu / nu.sum(), order[::-1])
        low, high = (middle, high) if own > other else (low, middle)
    return low


@pytest.fixture(scope="module")
def exact() -> dict[str, Any]:
    """Radii by integration, for each kind of noise with parameter 1, at PAIRS."""
    return {kind: np.array([numerical(kind, a, b) for a, b in PAIRS]) for kind in LAWS}


def test_neyman_pearson_is_what_integration_finds(exact: dict[str, Any]) -> None:
    assert neyman_pearson.gaussian_l2(A, B, 1.0) == pytest.approx(exact["gaussian"], abs=4e-3)
    assert neyman_pearson.uniform_l1(A, B, 1.0) == pytest.approx(exact["uniform"], abs=4e-3)
    two = A + B > 0.999
    assert two.sum() == 3
    found = neyman_pearson.laplace_l1(A, B, 1.0)
    assert found[two] == pytest.approx(exact["laplace"][two], abs=8e-3)
    short = exact["laplace"] - found
    assert (short > -8e-3).all() and short[4] > 0.4  # with a runner-up it may fall short


@pytest.mark.parametrize(("by", "kind"), CASES)
def test_no_theory_promises_more_than_integration_allows(
    exact: dict[str, Any], by: str, kind: str
) -> None:
    found = theory(by, kind)(A, B, 1.0)
    assert (found > 0).all() and (found <= exact[kind] + 8e-3).all()


def test_finite_orders_beat_the_two_forms_for_laplace_noise_with_a_runner_up() -> None:
    for a, b, better in ((0.9, 0.01, True), (0.99, 0.01, False), (0.5, 0.001, False)):
        published = neyman_pearson.laplace_l1(a, b, 1.0)
        assert bool(renyi.laplace_l1(a, b, 1.0) > published + 1e-3) == better


@pytest.mark.slow
@pytest.mark.parametrize(("by", "kind"), CASES)
def test_a_radius_grows_with_certainty_and_with_the_noise(by: str, kind: str) -> None:
    find = theory(by, kind)
    p = np.linspace(0.05, 0.999, 20)
    for rows in (find(p, None, 1.0), find(p, 0.04, 1.0), find(0.9, 0.1 * p[::-1], 1.0)):
        assert rows.shape == (20,) and rows.dtype == np.float64
        assert (np.diff(rows) >= -1e-9).all() and rows[-1] > rows[0]
    assert (find(p, None, 1.0)[p <= 0.5] == 0).all() and find(0.3, 0.31, 1.0) == 0
    assert find(p, None, 0.25) == pytest.approx(find(p, None, 1.0) / 4, rel=1e-9)
    one = np.array([float(find(float(v), None, 1.0)) for v in p])
    assert (find(torch.tensor(p), None, 1.0) == one).all()
    # pB is never more than what pA leaves
    assert find(0.8, 0.9, 1.0) == find(0.8, None, 1.0)


@pytest.mark.parametrize(("by", "kind"), CASES)
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((1.0, None, 0.5), "pA = 1"),
        ((-0.1, None, 0.5), "pA = -0.1"),
        ((math.nan, None, 0.5), "pA = nan"),
        ((0.9, 0.0, 0.5), "pB = 0"),
        ((0.9, 1.5, 0.5), "pB = 1.5"),
        ((np.float32(0.9), None, 0.5), "float32"),
        ((torch.tensor(0.9), None, 0.5), "float32"),
        ((np.array([0.9, 0.8]), np.array([0.1, 0.1, 0.1]), 0.5), "broadcast"),
        ((0.9, None, 0.0), "= 0.0"),
        ((0.9, None, math.inf), "= inf"),
        ((0.9, None, -1), "= -1"),
    ],
)
def test_nonsense_is_refused(by: str, kind: str, given: tuple[Any, ...], said: str) -> None:
    with pytest.raises(InputError, match=said.replace(".", r"\.")):
        theory(by, kind)(*given)


def test_theories_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UnknownName, match="renyi"):
        theory("reny", "gaussian")
    with pytest.raises(InputError, match="uniform"):
        theory("renyi", "uniform")


def test_hockey_sticks_recover_neyman_pearson() -> None:
    a = np.concatenate([A, [0.501, 0.9999, 1 - 1e-9]])
    b = np.concatenate([B, [0.499, 1e-6, 1e-9]])
    found, expected = hockey_stick.gaussian_l2(a, b, 0.5), neyman_pearson.gaussian_l2(a, b, 0.5)
    assert found == pytest.approx(expected, rel=2e-6)


# --- f-divergences -----------------------------------------------------------------------------

FS: dict[str, tuple[Callable[..., Any], Callable[[Any], Any]]] = {
    "kl": (divergences.kullback_leibler_l2, lambda t: t * np.log(np.maximum(t, 1e-300))),
    "hellinger": (divergences.hellinger_l2, lambda t: 1 - np.sqrt(t)),
    "chi-square": (divergences.chi_square_l2, lambda t: (t - 1) ** 2),
    "variation": (divergences.total_variation_l2, lambda t: np.abs(t - 1) / 2),
}


def between(f: Callable[[Any], Any], distance: float) -> float:
    """The divergence between N(distance, 1) and N(0, 1), by integration."""
    z, step = np.linspace(-12, 16, 40_001, retstep=True)
    return float((norm.pdf(z) * f(norm.pdf(z - distance) / norm.pdf(z))).sum() * step)


@pytest.mark.parametrize("name", FS)
@pytest.mark.parametrize(("a", "b"), [(0.7, 0.2), (0.9, 0.01), (0.45, 0.3)])
def test_the_divergence_at_the_radius_is_the_least_that_changes_the_class(
    name: str, a: float, b: float
) -> None:
    radius, f = FS[name]
    q = np.linspace(0, 1, 801)
    own, other = (part.ravel() for part in np.meshgrid(q, q))
    changed = (own <= other) & (own + other <= 1)
    own, other = own[changed], other[changed]
    left, rest = np.maximum(1 - own - other, 0), 1 - a - b
    brute = (a * f(own / a) + b * f(other / b) + rest * f(left / rest)).min()
    assert between(f, float(radius(a, b, 1.0))) == pytest.approx(brute, abs=2e-3, rel=2e-3)


def test_the_dual_of_the_kullback_leibler_certificate_vanishes_at_its_radius() -> None:
    a, b = 0.7, 0.2
    least = float(divergences.kullback_leibler_l2(a, b, 1.0)) ** 2 / 2
    rho, phi = np.array([a, b, 1 - a - b]), np.array([1.0, -1.0, 0.0])

    def dual(v: Any) -> float:  # the conjugate of t log t with weight lam
        lam, kappa = math.exp(v[0]), v[1]
        return float(kappa - lam * least - rho @ (lam * np.exp((kappa - phi) / lam - 1)))

    best = minimize(lambda v: -dual(v), [0.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-9})
    assert -best.fun == pytest.approx(0, abs=1e-5)


# --- Renyi and privacy -------------------------------------------------------------------------


def test_no_distribution_with_another_favourite_is_nearer_than_the_renyi_threshold() -> None:
    g = np.random.default_rng(0)
    p = np.array([0.6, 0.25, 0.1, 0.05])
    q = g.dirichlet(np.ones(4), 200_000) * 0.5 + p * 0.5
    q = q[q.argmax(1) != 0]
    for order in (1.2, 2.0, 8.0):
        divergence = np.log((q**order * p ** (1 - order)).sum(1)) / (order - 1)
        least = float(renyi.threshold(np.array(0.6), np.array(0.25), np.array(order)))
        assert least <= divergence.min() < least * 1.2


def test_the_renyi_radii_are_those_of_a_scan_over_orders() -> None:
    orders = 1 + np.geomspace(1e-4, 50, 4000)
    for a, b in PAIRS[:5]:
        mean = ((a ** (1 - orders) + b ** (1 - orders)) / 2) ** (1 / (1 - orders))
        square = -2 / orders * np.log(1 - a - b + 2 * mean)
        assert renyi.gaussian_l2(a, b, 1.0) == pytest.approx(math.sqrt(square.max()), rel=1e-5)
    z, step = np.linspace(-60, 60, 200_001, retstep=True)
    for order, distance in ((1.5, 0.7), (3.0, 2.0)):
        content = laplace.pdf(z - distance) ** order * laplace.pdf(z) ** (1 - order)
        expected = math.log(content.sum() * step) / (order - 1)
        found = renyi.laplace_divergence(np.array(distance), np.array(order))
        assert found == pytest.approx(expected, rel=1e-6)


def test_the_private_radius_is_the_best_of_a_scan_and_private_indeed() -> None:
    e, delta = np.meshgrid(np.linspace(1e-3, 1, 700), np.geomspace(1e-9, 0.5, 700))
    length = e / np.sqrt(2 * np.log(1.25 / delta))
    for a, b in PAIRS:
        held = a > np.exp(2 * e) * b + (1 + np.exp(e)) * delta
        found = float(privacy.gaussian_l2(a, b, 1.0))
        assert length[held].max() * (1 - 1e-9) <= found < length[held].max() * 1.03
    # the mechanism's own delta, in closed form (Balle and Wang 2018)
    true = norm.cdf(length / 2 - e / length) - np.exp(e) * norm.cdf(-length / 2 - e / length)
    assert (true <= delta).all()


# --- ablation ----------------------------------------------------------------------------------


def test_the_share_that_sees_no_changed_pixel_is_counted() -> None:
    subsets = list(itertools.combinations(range(7), 2))
    counted = [np.mean([min(s) >= r for s in subsets]) for r in range(6)]
    assert unseen(2, 7) == pytest.approx(counted, abs=1e-12)
    large = unseen(45, 784)
    exact = [Fraction(math.comb(784 - r, 45), math.comb(784, 45)) for r in range(740)]
    assert all(float(e) * (1 - 1e-11) <= f <= e for f, e in zip(large.tolist(), exact, strict=True))


@pytest.mark.parametrize(("d", "k", "total"), [(9, 2, 36), (784, 20, 50)])
def test_the_l0_radius_is_the_exact_one_with_ties(d: int, k: int, total: int) -> None:
    lost = [1 - Fraction(math.comb(d - r, k), math.comb(d, k)) for r in range(d - k + 1)]
    hits = range(total)
    exact = [
        max(
            (r for r, share in enumerate(lost) if Fraction(h, total) - share > Fraction(1, 2)),
            default=0,
        )
        for h in hits
    ]
    found = ablation_l0(np.array(hits) / total, None, k, d)
    assert found.tolist() == exact and max(exact) > 1


def test_no_change_of_so_many_pixels_outvotes_the_class() -> None:
    d, k = 7, 2
    subsets = list(itertools.combinations(range(d), k))
    g = np.random.default_rng(1)
    radii = set()
    for hits in (14, 17, 20):
        radius = int(ablation_l0(hits / len(subsets), None, k, d))
        radii.add(radius)
        for _ in range(40):
            own = {subsets[i] for i in g.choice(len(subsets), hits, replace=False)}
            for pixels in itertools.combinations(range(d), radius):  # what sees them may all flip
                kept = sum(not set(s) & set(pixels) for s in own)
                assert 2 * kept > len(subsets)
    assert radii == {0, 1}


@pytest.mark.parametrize(("keep", "pixels"), [(0, 4), (5, 4), (2.0, 4), (True, 4)])
def test_impossible_ablations_are_refused(keep: Any, pixels: Any) -> None:
    with pytest.raises(InputError, match="keep"):
        ablation_l0(0.9, None, keep, pixels)


def test_linf_through_l2() -> None:
    assert neyman_pearson.linf_of_l2(np.array([1.0, 0.5]), 3072) == pytest.approx(
        [1 / math.sqrt(3072), 0.5 / math.sqrt(3072)]
    )
    with pytest.raises(InputError, match="dimension"):
        neyman_pearson.linf_of_l2(1.0, 0)
