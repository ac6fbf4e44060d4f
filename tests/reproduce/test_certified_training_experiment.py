"""`reproduce certified-training`: verdicts on hand-made tables, and a tiny run from end to end."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from torchproof.core.errors import ResumeError
from torchproof.core.threats import parse
from torchproof.recipes import Plan
from torchproof.reproduce import EXPERIMENTS, Request
from torchproof.reproduce.certified_training import certified_training
from torchproof.reproduce.experiment import Partial
from torchproof.train import Settings, catalogue

experiment = sys.modules[certified_training.__module__]
Found, Setting = experiment.Found, experiment.Setting


def found(clean: int, certified: int, broken: int = 0) -> list[object]:
    return [Found(clean=clean, attacked=certified, certified=certified, broken=broken)] * 2


def table(at: int, ibp: int, free: int, broken: int = 0) -> dict[tuple[str, str], list[object]]:
    """Certified images of AT and IBP, clean ones of SABR, of 100; IBP has 80 clean ones."""
    return {
        (threat, name): each
        for threat in ("linf:0.1", "linf:0.3")
        for name, each in {
            "AT": found(95, at), "IBP": found(80, ibp, broken), "SABR": found(free, ibp),
            "MTL-IBP": found(70, ibp),
        }.items()
    }  # fmt: skip


@pytest.mark.parametrize(
    ("at", "ibp", "free", "broken", "verdict"),
    [
        (5, 25, 81, 0, "shows"),
        (5, 24, 81, 0, "does not show at this scale"),  # too little is certified
        (5, 25, 80, 0, "does not show at this scale"),  # nothing is gained in clean accuracy
        (25, 24, 81, 0, "contradicts"),
        (5, 60, 90, 1, "contradicts"),  # a certificate was wrong
    ],
)
def test_the_verdict(at: int, ibp: int, free: int, broken: int, verdict: str) -> None:
    judged, because = experiment.judge(table(at, ibp, free, broken), 100)
    assert judged == verdict
    assert f"{ibp - at:+.1f} points against" in because and f"{free - 80:+.1f} points" in because
    assert f"{4 * broken} certified images" in because


def test_the_plans_differ_in_method_and_threat_alone(tmp_path: Path) -> None:
    said: list[str] = []
    chosen = experiment.setting(Request(tmp_path, data_dir=tmp_path, say=said.append))
    assert "digits" in said[0] and {t for t, _ in chosen.plans} == {"linf:0.05", "linf:0.15"}
    paper = experiment.setting(Request(tmp_path, "paper"))
    assert paper.n == 10000 and set(experiment.PUBLISHED) <= set(paper.plans)
    for setting in (chosen, paper):
        same = {p.model_copy(update={"method": "", "threat": ""}) for p in setting.plans.values()}
        assert len(same) == 1 and len(setting.plans) == 10
        for (threat, _), plan in setting.plans.items():
            assert plan.threat == threat
            assert catalogue.method(plan.method, parse(threat)) is not None


def test_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings.of(epochs=1, batch_size=50, lr=5e-3, optimiser="adam", held_out=20,
                           held_out_steps=1, weight_decay=0.0)  # fmt: skip
    plan = Plan(model="mlp(hidden=(8,))", threat="linf:0.02", n=120, settings=settings)
    plans = {
        ("linf:0.02", name): plan.model_copy(update={"method": method})
        for name, method in experiment.methods("linf:0.02", "Ramp(0, 0.5)").items()
    }
    monkeypatch.setattr(experiment, "setting", lambda request: Setting(plans, 8, "quick"))
    before = Found(clean=7, attacked=6, certified=5, broken=0)
    for name in ("CROWN-IBP", "SABR", "MTL-IBP"):  # measured before the run was interrupted
        folder = tmp_path / "run" / "linf-0.02" / f"{name}-seed0"
        folder.mkdir(parents=True)
        before.write(folder / "found.json")
    said: list[str] = []
    ahead = Request(tmp_path / "run", seeds=1)
    with pytest.raises(Partial):  # as a process that measures ahead
        certified_training(replace(ahead.part(0), say=said.append))
    count = len(said)
    outcome = EXPERIMENTS["certified-training"](replace(ahead, resume=True, say=said.append))
    assert len(said) == count > 0, "what was measured ahead is read back"
    rows = {row.what: row.ours[0] for row in outcome.rows}
    assert len(rows) == 20
    for _, name in plans:
        clean, attacked, certified, broken = (
            rows[f"linf:0.02, {name}: {what}"]
            for what in ("clean", "attacked", "certified", "certified, but broken")
        )
        assert certified <= attacked <= clean and broken == 0
        assert name in ("AT", "IBP") or (clean, certified) == (7 / 8, 5 / 8)
    assert (tmp_path / "run" / "picture.png").read_bytes().startswith(b"\x89PNG")
    again = Request(tmp_path / "run", seeds=1, resume=True, say=said.append)
    assert certified_training(again).rows == outcome.rows and len(said) == count
    with pytest.raises(ResumeError):
        certified_training(Request(tmp_path / "run", seeds=2, resume=True, say=said.append))
