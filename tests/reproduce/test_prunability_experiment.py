"""`reproduce prunability`: a tiny run on digits, its parts and its verdict."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from torchproof.core.errors import InputError
from torchproof.nn import build
from torchproof.reproduce import prunability as experiment
from torchproof.reproduce.experiment import Partial, Request
from torchproof.reproduce.prunability import Part, Until, loss_of, mixed_labels
from torchproof.reproduce.prunability_figures import MAGNITUDE, Cell, Wide, described, judge

TINY = Part(
    "digits", n=60, tests=50, noise=(0.0, 0.4), widths=((4, 8), (6, 8)), lr=1e-2, target=0.8,
    most=60, units=(2, 8), epochs=2, grid=10, draws=1, levels=1,
)  # fmt: skip


@pytest.mark.slow
def test_it_runs_from_end_to_end_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experiment, "part_of", lambda request: TINY)
    told: list[str] = []
    request = Request(tmp_path / "out", seeds=1, data_dir=tmp_path, say=told.append)
    with pytest.raises(Partial):  # as a process that measures ahead
        experiment.prunability_experiment(dataclasses.replace(request.part(0), say=told.append))
    assert len(told) == 6
    first = experiment.prunability_experiment(dataclasses.replace(request, resume=True))
    assert (tmp_path / "out" / "picture.png").stat().st_size > 10_000
    cells = [Cell.read(p) for p in sorted((tmp_path / "out").glob("seed*/ladder*.json"))]
    assert len(cells) == 4 and all(c.reached and 0 < c.loss < 0.8 for c in cells)
    assert len(told) == 6 and "keeps" in told[0]
    what = {row.what: row for row in first.rows}
    name = "Kendall tau with the gap, all 4: norm"
    assert -1 <= what[name].mean <= 1 and what[name].ci95 is not None
    counts = {row.what.removeprefix("sweep, 2 units: "): row.n for row in first.rows}
    assert counts["training accuracy"] == 60 and counts["test accuracy"] == 50
    assert counts[f"{MAGNITUDE} keeps"] == 1  # networks
    still = "Kendall tau with the gap, 2 networks: parameters (does not vary)"
    assert what[still].mean == 0 and what[still].ci95 is None
    assert any(w.startswith(f"Kendall tau with the gap, all 4: {MAGNITUDE}") for w in what)
    assert any(
        w.startswith("mutual information with the gap, least over axes given: norm") for w in what
    )
    assert any(w.startswith("granulated tau (noise") for w in what)
    again = experiment.prunability_experiment(dataclasses.replace(request, resume=True))
    assert again.rows == first.rows and len(told) == 6


def test_there_is_no_paper_scale(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="small"):
        experiment.prunability_experiment(Request(tmp_path / "out", scale="paper"))


def test_labels_are_mixed_on_that_share_of_the_rows() -> None:
    y = torch.arange(1000) % 10
    mixed = mixed_labels(y, 0.5, 10, seed=1)
    assert 0.4 < float((mixed != y).double().mean()) < 0.5  # a tenth is drawn right
    assert torch.equal(mixed_labels(y, 0.0, 10, 1), y)
    assert torch.equal(mixed, mixed_labels(y, 0.5, 10, 1))
    assert int(mixed.max()) == 9 and int(mixed.min()) == 0


def test_training_stops_at_the_loss_and_keeps_those_weights() -> None:
    model = build("mlp", channels=1, size=8, classes=10, seed=0, hidden=(4,))
    x = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    y = torch.arange(5)
    never, at_once = (Until(model, x, y, target) for target in (1e-9, 100.0))
    assert not any(never() for _ in range(9)) and never.steps == 9
    assert [at_once() for _ in range(5)] == [False, False, False, True, True]
    loss = loss_of(model, x, y)
    with torch.no_grad():
        model.net.layers[0].weight.zero_()
    model.load_state_dict(at_once.state)
    assert loss_of(model, x, y) == loss


def cell(seed: int, noise: float, kept: float, reached: bool = True) -> Cell:
    measures = {MAGNITUDE: kept, "norm": 1.0 + seed}
    return Cell(seed=seed, width="(2, 4)", noise=noise, n=9, loss=0.03, reached=reached, train=1.0,
                test=0.9 - noise - 0.001 * seed, measures=measures)  # fmt: skip


def wide(units: int, error: float) -> Wide:
    return Wide(seed=0, units=units, n=9, loss=0.1, train=0.9, test=1 - error, test_loss=1.0,
                parameters=units, fraction=error, norm=1.0)  # fmt: skip


RISE = [wide(units, error) for units, error in ((2, 0.4), (4, 0.3), (8, 0.35), (16, 0.2))]


def test_the_verdict_is_that_of_tau_on_enough_networks() -> None:
    ladder = [(seed, noise) for seed in range(2) for noise in (0.0, 0.1, 0.2, 0.3)]
    good = [cell(seed, noise, 0.2 + noise) for seed, noise in ladder]
    verdict, text = judge(good, RISE)
    assert verdict == "shows" and "norm" in text
    assert judge(good[:4], RISE)[0] == "does not show at this scale"
    late = [*good[:7], cell(1, 0.3, 0.5, reached=False)]
    assert judge(late, RISE)[0] == "does not show at this scale"
    against = [cell(seed, noise, 0.9 - noise) for seed, noise in ladder]
    assert judge(against, RISE)[0] == "contradicts"


def test_double_descent_is_a_rise_between_two_falls() -> None:
    assert "rises by 5.0 points up to 8 units and falls by 15.0" in described(RISE)
    assert "no second descent in the test loss" in described(RISE)
    losses = ((2, 1.0), (4, 1.6), (8, 0.9))
    bump = [wide(u, 1 / u).model_copy(update={"test_loss": loss}) for u, loss in losses]
    assert described(bump).startswith("no second descent in the test error of the sweep; double")
    assert "test loss of the sweep: it rises by 0.60 nats up to 4 units" in described(bump)
    assert "falls by 0.70 nats beyond" in described(bump)
    fall = [wide(units, 1 / units) for units in (2, 4, 8)]
    assert described(fall).startswith("no second descent")
    assert described(list(reversed(fall))).startswith("no second descent")
