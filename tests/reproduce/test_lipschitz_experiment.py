"""`reproduce lipschitz`: a tiny run on digits and its verdict."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from torchproof.reproduce import lipschitz as experiment
from torchproof.reproduce.experiment import Request
from torchproof.reproduce.lipschitz import Part
from torchproof.reproduce.lipschitz_figures import NOISY, PLAIN, Cell, Curve, Line, judge
from torchproof.train import Settings

SETTINGS = Settings.of(epochs=1, lr=2e-3, batch_size=50, optimiser="adam", schedule="cyclic",
                       weight_decay=0.0, held_out=0)  # fmt: skip
TINY = Part(
    "digits", "mlp(hidden=(8,))", 100, SETTINGS, points=5, tests=20, radii=(0.5, 1.0), draws=2,
    steps=3, starts=1, close=2, near=(0.01,), sampled=2, spread=2,
)  # fmt: skip


@pytest.mark.slow
def test_it_runs_from_end_to_end_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experiment, "part_of", lambda request: TINY)
    request = Request(tmp_path / "out", seeds=1, data_dir=tmp_path, say=lambda text: None)
    first = experiment.lipschitz_experiment(request)
    assert (tmp_path / "out" / "picture.png").stat().st_size > 10_000
    what = {row.what: row.mean for row in first.rows}
    assert 0.98 < what["linear map: gradient ascent / exact"] <= 1 + 1e-9
    low = what[f"{PLAIN}: alpha of logits, r = 1, random noise"]
    high = what[f"{PLAIN}: alpha of logits, certified by spectral norms"]
    assert 0 < low <= what[f"{PLAIN}: alpha of logits, r = 1, gradient ascent"] <= high
    head = f"{NOISY}: alpha of logits at few points, r = 0.01"
    assert what[f"{head}, gradient ascent"] <= what[f"{head}, certified in the ball"] * (1 + 1e-9)
    again = experiment.lipschitz_experiment(dataclasses.replace(request, resume=True))
    assert again.rows == first.rows and "must not be" not in first.because


def test_the_paper_scale_is_the_authors_grid() -> None:
    part = experiment.part_of(Request(Path("nowhere"), scale="paper"))
    assert part.radii[-1] == 1.75 and len(part.radii) == 30 and part.points == 1000


def cells(attacked: float, sampled: float) -> list[Cell]:
    found = []
    for kind, a, s in ((PLAIN, 1.0, 0.2), (NOISY, attacked, sampled)):
        softmax = Curve(radii=(0.5, 1.0, 2.0), sampled=(s, s, s), attacked=(9.0, a, a),
                        bound=(50.0, 50.0, 50.0))  # fmt: skip
        found.append(Cell(kind=kind, seed=0, n=9, points=9, clean=9, noisy=(5, 4), softmax=softmax,
                          logits=softmax, near=None))  # fmt: skip
    return found


def line(attacked: float = 0.99) -> list[Line]:
    return [Line(seed=0, exact=1.0, sampled=0.2, attacked=attacked, bound=1.001)]


def test_the_verdict_follows_both_estimates() -> None:
    assert judge(line(), cells(0.9, 0.15))[0] == "shows"
    assert judge(line(0.97), cells(0.9, 0.15))[0] == "does not show at this scale"
    assert judge(line(), cells(0.9, 0.21))[0] == "does not show at this scale"
    assert judge(line(), cells(0.7, 0.19))[0] == "does not show at this scale"  # noise is close
    assert judge(line(), cells(1.1, 0.21))[0] == "contradicts"


def test_a_value_above_a_bound_is_never_shown() -> None:
    verdict, text = judge(line(1.01), cells(0.9, 0.15))
    assert verdict == "does not show at this scale" and "must not be" in text
