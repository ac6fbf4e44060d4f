"""`reproduce smoothed-training`: verdicts on hand-made tables, and a tiny run from end to end."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from torchproof.core.errors import ResumeError
from torchproof.core.threats import parse
from torchproof.recipes import Plan
from torchproof.reproduce import EXPERIMENTS, Request
from torchproof.train import Settings, catalogue

experiment = sys.modules[EXPERIMENTS["smoothed-training"].__module__]
Found, Setting = experiment.Found, experiment.Setting
BASE = tuple(0.1 * (i % 7) for i in range(40))


def table(smoothadv: float, consistency: float) -> dict[tuple[float, str], list[object]]:
    """Radii of two seeds, moved by these gains and some scatter against those of noise."""
    moves = {"noise": 0.0, "SmoothAdv": smoothadv, "consistency": consistency}
    made = {}
    for sigma in (0.25, 0.5):
        for name, gain in moves.items():
            radii = [
                tuple(max(r + gain + 0.05 * (-1) ** (i + seed // 2), 0.0) if gain else r
                      for i, r in enumerate(BASE))
                for seed in (0, 1)
            ]  # fmt: skip
            made[sigma, name] = [Found(radii=r, abstained=0.1) for r in radii]
    return made


@pytest.mark.parametrize(
    ("smoothadv", "consistency", "verdict"),
    [
        (0.1, 0.1, "shows"),
        (0.1, 0.001, "does not show at this scale"),  # the interval holds 0
        (0.1, -0.2, "contradicts"),
        (-0.2, 0.1, "contradicts"),
    ],
)
def test_the_verdict(smoothadv: float, consistency: float, verdict: str) -> None:
    judged, because = experiment.judge(table(smoothadv, consistency))
    assert judged == verdict and because.count("sigma 0.25") == 2


def test_the_gain_is_that_of_images() -> None:
    made = table(0.1, 0.2)
    mean, low, high = experiment.gain(made, 0.5, "SmoothAdv")
    ours, plain = (sum(made[0.5, name][0].radii) / 40 for name in ("SmoothAdv", "noise"))
    assert mean == pytest.approx(ours - plain) and low < mean < high < 0.2


def test_the_plans_differ_in_method_alone(tmp_path: Path) -> None:
    said: list[str] = []
    chosen = experiment.setting(Request(tmp_path, data_dir=tmp_path, say=said.append))
    assert "digits" in said[0]
    paper = experiment.setting(Request(tmp_path, "paper"))
    assert (paper.images, paper.samples) == (10_000, 100_000)
    assert set(paper.plans) == set(chosen.plans) == set(experiment.PUBLISHED)
    for setting in (chosen, paper):
        assert len({p.model_copy(update={"method": ""}) for p in setting.plans.values()}) == 1
        for (sigma, _), plan in setting.plans.items():
            method = catalogue.method(plan.method, parse(str(plan.threat)))
            assert method.sigma == sigma and plan.settings.held_out == 0


def test_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings.of(epochs=1, batch_size=50, lr=5e-3, optimiser="adam", held_out=0)
    plan = Plan(model="mlp(hidden=(8,))", threat="l2:0.2", n=100, settings=settings)
    plans = {
        (0.25, name): plan.model_copy(update={"method": method})
        for name, method in experiment.methods(0.25, True).items()
    }
    monkeypatch.setattr(experiment, "setting", lambda request: Setting(plans, 6, 40))
    before = Found(radii=(0.1, 0.2, 0.0, 0.0, 0.3, 0.1), abstained=0.0)
    for name in ("stability", "MACER"):  # measured before the run was interrupted
        folder = tmp_path / "run" / "0.25" / f"{name}-seed0"
        folder.mkdir(parents=True)
        before.write(folder / "found.json")
    said: list[str] = []
    request = Request(tmp_path / "run", seeds=1, say=said.append)
    outcome = EXPERIMENTS["smoothed-training"](request)
    assert sum("ACR" in line for line in said) == 3  # not those two again
    rows = {row.what: row for row in outcome.rows}
    assert len(rows) == 5 * 4 and rows["sigma 0.25, MACER: ACR"].mean == pytest.approx(0.7 / 6)
    assert rows["sigma 0.25, SmoothAdv: ACR"].published == 0.932
    assert rows["sigma 0.25, MACER: certified at 0.25"].ours == (1 / 6,)
    kept = json.loads((tmp_path / "run" / "outcome.json").read_text(encoding="utf-8"))
    assert kept["verdict"] == outcome.verdict and "n = 40" in kept["settings"]["certified with"]
    assert (tmp_path / "run" / "picture.png").stat().st_size > 5000
    again = Request(tmp_path / "run", seeds=1, resume=True, say=said.append)
    count = len(said)
    assert EXPERIMENTS["smoothed-training"](again).rows == outcome.rows and len(said) == count
    with pytest.raises(ResumeError):
        EXPERIMENTS["smoothed-training"](Request(tmp_path / "run", seeds=2, resume=True))
