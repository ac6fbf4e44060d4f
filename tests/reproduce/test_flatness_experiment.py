"""`reproduce flatness`: verdicts by hand, correlations, rows, a whole run of tiny networks."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from scipy import stats

from torchproof.core.errors import InputError, ResumeError
from torchproof.core.threats import parse
from torchproof.diagnose.flatness import Procedure
from torchproof.reproduce import flatness as experiment
from torchproof.reproduce.experiment import Outcome, Request
from torchproof.reproduce.flatness_judge import (
    AT,
    AWP,
    EARLY,
    Cell,
    across,
    along,
    interval,
    judge,
    names,
    rows,
    spearman,
)
from torchproof.train import AT as AdversarialTraining
from torchproof.train.method import Batch

NAMES = (AT, EARLY, "TRADES", "MART", AWP, "label noise", "augmentation", "extra data")


def cell(name: str, seed: int, loss: float, flat: float, epoch: int = 0) -> Cell:
    return Cell(
        name=name, seed=seed, epoch=epoch, n=200, tests=500, loss=loss, wrong=200, train_loss=0.2,
        average=flat, worst=flat / 20, spread=0.4, clean_average=0.3,
    )  # fmt: skip


def cells(
    across_: float = 1.0, along_: float = 1.0, awp: float = 0.5, points: int = 8
) -> list[Cell]:
    """Flatness that rises (1) or falls (-1) with the test loss, over variants and over epochs; AWP
    between others in loss, `awp` times as flat as AT.
    """
    made = []
    for seed in range(3):
        for place, name in enumerate(NAMES):
            at, flat = 1.0 + place / 10 + seed / 100, 2.0 + across_ * place / 10
            flat = awp * (2.0 + seed / 50) if name == AWP else flat + seed / 50
            made.append(cell(name, seed, at, flat))
        made += [
            cell("long", seed, 1 + e / 10, 3 + along_ * e / 10, e) for e in range(1, points + 1)
        ]
    return made


@pytest.mark.parametrize(
    ("given", "verdict", "said"),
    [
        ({"awp": 0.99}, "shows", "is not met (-1 % and -1 %)"),
        ({"awp": 1.2}, "does not show at this scale", "+20 %, +20 %, +20 % and its worst-case"),
        ({"awp": 1.2, "along_": -1, "across_": -1}, "contradicts", "8 checkpoints flatness"),
        ({"along_": 0}, "does not show at this scale", "by +0.00 (per seed +0.00"),
        ({"points": 7}, "does not show at this scale", "over 7 checkpoints"),
    ],
)
def test_the_verdict(given: dict[str, float], verdict: str, said: str) -> None:
    found, because = judge(cells(**given))  # type: ignore[arg-type]
    assert found == verdict and said in because


def test_the_claim_is_shown_by_all_three() -> None:
    shown = [c if c.name != AWP else c.model_copy(update={"loss": 0.9}) for c in cells()]
    found, because = judge(shown)
    assert found == "shows" and "not as claimed" not in because
    assert "8 variants by +1.00 (+1.00 to +1.00)" in because and "is met (-50 % and" in because
    few = [c for c in shown if c.name != "MART"]
    assert judge(few)[0] == "does not show at this scale"


def test_rank_correlations_and_their_interval() -> None:
    a, b = [1.0, 2.0, 5.0, 3.0, 9.0], [0.2, 0.1, 0.4, 0.3, 0.9]
    assert spearman(a, b) == pytest.approx(float(stats.spearmanr(a, b).statistic))
    assert spearman(a, [1.0] * 5) == 0.0
    low, high = interval(0.87, 30) or (0.0, 0.0)
    # atanh(0.87) = 1.3331, and its standard error sqrt((1 + 0.87^2 / 2) / 27) = 0.2260
    assert (low, high) == pytest.approx((0.7109, 0.9441), abs=2e-3)
    assert interval(0.5, 3) is None and interval(1.0, 8) == pytest.approx((1.0, 1.0), abs=1e-6)
    made = cells(along_=-1)
    assert along(made, "average") == pytest.approx((-1, -1, -1))
    assert along(made, "average", "epoch") == pytest.approx((-1, -1, -1))
    assert across(made, "clean_average")[0] == 0.0


def test_rows_hold_every_variant_and_what_was_published() -> None:
    made = {row.what: row for row in rows(cells(), (0.5, 0.003))}
    assert names(cells()) == list(NAMES)
    turned = [
        c.model_copy(update={"loss": abs(c.loss - 1.4) + 1}) if c.epoch else c for c in cells()
    ]
    late = "run that overfits, from its lowest test robust loss on: Spearman, average-case flatness"
    (row,) = [row for row in rows(turned, (0.5, 0.003)) if row.what.startswith(late)]
    assert row.ours == pytest.approx((1,) * 3) and row.n == 5 and along(turned, "average")[0] < 0.9
    assert made["AT: average-case flatness, nats"].published == 1.21
    assert made["AT: worst-case flatness, nats"].published == 6.48
    setting = "ResNet-18, CIFAR-10, linf 8/255, xi = 0.00075; ours at xi = 0.003"
    assert made["AT: worst-case flatness, nats"].setting == setting
    decay = made["AT, early stopping: average-case flatness, nats"]
    assert decay.published is None and decay.known == "– (ours at xi = 0.5)"
    assert made["AT: robust error, test"].ours == pytest.approx((0.4,) * 3)
    assert made["MART: robust-loss gap, nats"].ours == pytest.approx((1.1, 1.11, 1.12))
    end = made["run that overfits, at its end: average-case flatness, nats"]
    assert end.ours == pytest.approx((3.8,) * 3)
    best = made["run that overfits, at its lowest test robust loss: test robust loss, nats"]
    assert best.ours == pytest.approx((1.1,) * 3)
    assert made["AWP against AT: change of average-case flatness"].mean == pytest.approx(
        -0.5, abs=0.02
    )


def test_label_noise_draws_labels_anew_and_leaves_images() -> None:
    x, y = torch.rand(400, 1, 4, 4), torch.randint(10, (400,))
    batch = Batch(x=x, y=y, ids=torch.arange(400), progress=0.5, seed=3)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 10))
    inner = AdversarialTraining(parse("linf:0.1"), steps=1, length=1.0)
    noisy = experiment.LabelNoise(inner, share=0.5).prepare(net, batch)
    assert torch.equal(noisy.x, x) and batch.y is y
    assert 0.35 < float((noisy.y != y).float().mean()) < 0.55
    again = experiment.LabelNoise(inner, share=0.5).prepare(net, batch)
    other = experiment.LabelNoise(inner, share=0.5).prepare(net, dataclasses.replace(batch, seed=4))
    assert torch.equal(again.y, noisy.y) and not torch.equal(other.y, noisy.y)
    assert torch.equal(experiment.LabelNoise(inner, share=0.0).prepare(net, batch).y, y)
    with pytest.raises(InputError):
        experiment.LabelNoise(inner, share=1.5)


def test_the_settings_of_both_scales(tmp_path: Path) -> None:
    for scale in ("small", "paper"):
        request = Request(tmp_path, scale=scale, data_dir=tmp_path, say=lambda _: None)
        chosen = experiment.setting(request)
        plans = chosen.plans((0, 1))
        assert len(plans) == 10 and plans["extra data"].settings.extra_share == 0.5
        assert plans["weight decay"].settings.weight_decay > plans[AT].settings.weight_decay
        assert plans["augmentation"].augment != plans[AT].augment
        long = plans[experiment.LONG].settings.epochs
        assert long // chosen.every >= 8 and chosen.how.draws >= 6
    assert plans[AT].data == "cifar10" and plans[AT].threat == "linf:8/255"


@pytest.mark.slow
def test_a_whole_tiny_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"data": "digits", "model": "small-cnn(widths=(4, 4), hidden=16)", "n": 120,
             "threat": "linf:0.1", "settings": {"epochs": 1, "lr": 2e-3, "optimiser": "adam",
                                            "batch_size": 50, "weight_decay": 0.0,
                                            "held_out": 20, "held_out_steps": 1}}  # fmt: skip
    tiny = experiment.Setting(
        base=small, pgd="steps=1, length=1.0", augment="Crop(1)", decay=1e-2,
        long={"epochs": 2}, every=1, n=20, tests=30,
        how=Procedure(draws=2, starts=1, steps=1, length=1.0),
        curve={"radii": (-0.5, 0.0, 0.5), "directions": 2, "steps": 1},
    )  # fmt: skip
    monkeypatch.setattr(experiment, "setting", lambda request: tiny)
    said: list[str] = []
    request = Request(tmp_path / "out", seeds=1, say=said.append)
    outcome = experiment.flatness_experiment(request)
    assert outcome.verdict in ("does not show at this scale", "contradicts")  # two checkpoints
    assert Outcome(**json.loads((request.out / "outcome.json").read_text())) == outcome
    assert (request.out / "picture.png").read_bytes().startswith(b"\x89PNG")
    assert "label noise: average-case flatness" in (request.out / "table.md").read_text()
    early = json.loads(
        (request.out / "seed0" / "cells" / "AT,-early-stopping-model.json").read_text()
    )
    assert early["name"] == EARLY
    count = len(said)
    again = experiment.flatness_experiment(
        Request(request.out, seeds=1, resume=True, say=said.append)
    )
    assert again.rows == outcome.rows and len(said) == count
    with pytest.raises(ResumeError):
        experiment.flatness_experiment(Request(request.out, seeds=2, resume=True, say=said.append))
