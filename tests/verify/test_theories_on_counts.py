"""The theories of the Gaussian l2 radius beside each other, on the same class counts."""

from __future__ import annotations

import numpy as np
import pytest

from torchproof.verify.smoothing import THEORIES, Smoothing, SmoothingRun
from torchproof.verify.smoothing.theories import NEYMAN_PEARSON

SIGMA, N = 0.5, 1000
OTHERS = [by for by, noise in THEORIES.items() if "gaussian" in noise and by != NEYMAN_PEARSON]


@pytest.fixture(scope="module")
def run() -> SmoothingRun:
    """Counts of 40 images over 5 classes, from a tie to certainty."""
    g = np.random.default_rng(3)
    records = []
    for i, share in enumerate(np.linspace(0.3, 1.0, 40)):
        rest = g.dirichlet(np.ones(4)) * (1 - share)
        counts = g.multinomial(N, [share, *rest]).tolist()
        records.append(
            {"id": i, "label": 0, "prediction": 0, "candidate": 0, "counts": counts,
             "radius": 0.0, "seconds": 0.0}
        )  # fmt: skip
    return SmoothingRun(Smoothing(SIGMA, n=N), tuple(records))


@pytest.mark.parametrize("runner_up", [False, True])
@pytest.mark.parametrize("by", OTHERS)
def test_no_theory_is_above_neyman_pearson(run: SmoothingRun, by: str, runner_up: bool) -> None:
    best = run.log(NEYMAN_PEARSON, runner_up=runner_up)
    other = run.log(by, runner_up=runner_up)
    assert (other.predictions == best.predictions).all()  # the same images are certified at all
    assert (other.radii <= best.radii * (1 + 1e-6) + 1e-12).all()
    assert 0 < other.acr <= best.acr * (1 + 1e-6)
    certified = best.radii > 0
    assert certified.any() and not certified.all()
    if by == "hockey-stick":
        assert other.radii == pytest.approx(best.radii, rel=1e-6)
    else:
        assert (other.radii[certified] < best.radii[certified]).all()
