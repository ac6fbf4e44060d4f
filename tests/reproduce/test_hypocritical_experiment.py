"""`reproduce hypocritical`: five kinds of network, verdicts by hand, a whole run of tiny ones."""

from __future__ import annotations

import json
import math
import sys
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from torchproof.attack.hypocritical import hypocritical
from torchproof.core.errors import ResumeError
from torchproof.core.threats import parse
from torchproof.data import load
from torchproof.data.dataset import Dataset
from torchproof.evaluate import Member, hypocrisy
from torchproof.evaluate.friends import FriendRecord, HypocrisyRecord
from torchproof.evaluate.risks import Risks, Share
from torchproof.recipes import Plan
from torchproof.reproduce import EXPERIMENTS, Outcome, Request
from torchproof.reproduce.hypocritical import Part, parts
from torchproof.reproduce.hypocritical_figures import ATTACKS, PUBLISHED, ROBUST, judge, rows
from torchproof.reproduce.substandard import KINDS, mislabelled, noisy, poisoned
from torchproof.train import Settings

experiment = sys.modules[EXPERIMENTS["hypocritical"].__module__]
RUN = EXPERIMENTS["hypocritical"]


def record(clean: int, hits: tuple[int, int, int], unstable: int | None = None) -> HypocrisyRecord:
    """100 examples; `hits` of the errors are befriended by the three attacks."""
    wrong, most = 100 - clean, max(hits)
    risks = Risks(100, clean, 0, most, most, most if unstable is None else unstable)
    attacks = [
        FriendRecord(
            name=name, settings="", hypocritical_risk=Share.of(h, wrong),
            verification_accuracy=Share.of(clean + h, 100), forward=1, backward=1, seconds=0.0,
        )
        for name, h in zip(ATTACKS, hits, strict=True)
    ]  # fmt: skip
    return HypocrisyRecord(
        date="", model="m", model_sha256=None, data="d", data_sha256="", n=100, threat="linf:0.1",
        seed=0, adversary="", risks=risks.shares, attacks=attacks, identities=risks.identities,
        forward=1, backward=1, seconds=0.0, unfinished=0, unconfirmed=0, verdict="ok", versions={},
        command="",
    )  # fmt: skip


def table(**changed: HypocrisyRecord) -> Any:
    usual = {kind: record(10, (20, 60, 70)) for kind in KINDS if kind != "quality"}
    usual |= {"quality": record(90, (8, 9, 10)), "PGD-AT": record(80, (5, 9, 9))}
    usual |= {"TRADES": record(79, (4, 8, 9))}
    return {("mnist", kind): [found] for kind, found in (usual | changed).items()}


@pytest.mark.parametrize(
    ("changed", "verdict", "said"),
    [
        ({}, "shows", "70.0 points"),
        ({"naive": record(10, (5, 20, 39))}, "does not show at this scale", "39.0 points"),
        ({"noise": record(10, (20, 60, 59))}, "does not show at this scale", "1.0 points below"),
        ({"TRADES": record(80, (0, 0, 0))}, "does not show at this scale", "TRADES 0.0 %"),
        ({"poisoned": record(10, (0, 0, 0))}, "contradicts", "0.0 points (mnist poisoned)"),
        ({"naive": record(10, (20, 60, 70), unstable=69)}, "contradicts", "identities fail"),
    ],
)
def test_the_verdict(changed: dict[str, HypocrisyRecord], verdict: str, said: str) -> None:
    found, because = judge(table(**changed))
    assert found == verdict and said in because, because


def test_rows_pool_the_seeds() -> None:
    both = {("mnist", "naive"): [record(10, (20, 60, 70)), record(20, (10, 20, 30))]}
    found = {row.what: row for row in rows(both)}
    row = found["mnist, naive: PGD-20"]
    assert row.ours == (0.7, 0.4) and row.n == 200 and row.published == 0.8256
    assert row.ci95 is not None and row.ci95[0] < 0.55 < row.ci95[1] and "ResNet-18" in row.setting
    risk = found["mnist, naive: hypocritical risk"]
    assert risk.ours == pytest.approx((70 / 90, 30 / 80)) and risk.n == 170
    assert set(PUBLISHED) == {*KINDS, *ROBUST}


def digits() -> Dataset:
    return load("digits", split="train").take(200)


def test_noise_and_labels_are_drawn_anew(tmp_path: Path) -> None:
    train = digits()
    noise, wrong = noisy(train, 1), mislabelled(train, 1)
    assert torch.equal(noise.y, train.y) and torch.equal(wrong.x, train.x)
    assert noise.x.shape == train.x.shape and abs(float(noise.x.mean()) - 0.5) < 0.01
    assert abs(float(noise.x.var()) - 1 / 12) < 0.005
    same = float((wrong.y == train.y).double().mean())
    assert abs(same - 0.1) < 5 * math.sqrt(0.09 / 200)
    assert set(wrong.y.tolist()) == set(range(10))
    assert not torch.equal(noisy(train, 2).x, noise.x)
    part = noisy(train.take(50), 1)
    assert torch.equal(part.x, noise.x[:50]), "an image's noise depends on its row alone"


def test_poison_is_the_published_descent(tmp_path: Path) -> None:
    train = digits().take(6)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    found = poisoned(train, model, parse("linf:0.2"), 5, 0, tmp_path)
    moved = train.x.clone()
    for _ in range(5):
        live = moved.clone().requires_grad_()
        loss = nn.functional.cross_entropy(model(live), (train.y + 1) % 10)
        (grad,) = torch.autograd.grad(loss, live)
        moved = moved - 0.04 * grad.sign()
        moved = torch.clamp(moved, train.x - 0.2, train.x + 0.2).clamp(0, 1)
    assert torch.equal(found.y, train.y)
    assert float((found.x - moved).abs().max()) <= 0.5 / 255 + 1e-6
    again = poisoned(train, nn.Identity(), parse("linf:0.2"), 5, 0, tmp_path)
    assert torch.equal(again.x, found.x), "stored images are read back"


def test_the_scales(tmp_path: Path, data_dir: Path) -> None:
    paper = parts(Request(tmp_path, "paper"))
    assert [p.plan.data for p in paper] == ["cifar10", "svhn"]
    assert all(p.threat == "linf:8/255" and p.poison == 100 for p in paper)
    small = parts(Request(tmp_path, data_dir=data_dir))
    assert [(p.plan.data, p.threat) for p in small][:1] == [("mnist", "linf:0.3")]
    assert len(small) == 2


def test_without_data_the_digits_take_their_place(tmp_path: Path) -> None:
    said: list[str] = []
    (only,) = parts(Request(tmp_path, data_dir=tmp_path, say=said.append))
    assert only.plan.data == "digits" and len(said) == 2 and "fashion-mnist" in said[1]


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings.of(epochs=1, batch_size=32, lr=0.01, optimiser="adam")
    plan = Plan(model="mlp(hidden=(12,))", method="Standard", n=100, settings=settings)
    part = Part(plan, "linf:0.15", 1, 2, 3, 24)
    monkeypatch.setattr(experiment, "parts", lambda request: [part])
    monkeypatch.setattr("torchproof.data.load", cache(load))
    threat = parse("linf:0.15")
    short = [Member(name, hypocritical(threat, 3)) for name in ATTACKS]
    monkeypatch.setattr(experiment, "hypocrisy", partial(hypocrisy, attacks=short))


def figures(out: Path) -> dict[str, Any]:
    stored: dict[str, Any] = json.loads((out / "outcome.json").read_text())
    return {name: value for name, value in stored.items() if not name.endswith("seconds")}


@pytest.mark.slow
def test_a_run_and_its_resumption(
    tiny: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    whole = RUN(Request(tmp_path / "whole", seeds=1, say=said.append))
    kinds = (*KINDS, *ROBUST)
    heads = {row.what.partition(":")[0] for row in whole.rows}
    assert heads == {f"digits, {kind}" for kind in kinds}
    assert len({text.partition(":")[0] for text in said if "epoch" in text}) == 6
    assert Outcome.model_validate_json((tmp_path / "whole" / "outcome.json").read_text()) == whole
    assert (tmp_path / "whole" / "picture.png").read_bytes().startswith(b"\x89PNG")
    for kind in kinds:
        record = HypocrisyRecord.read(tmp_path / "whole" / f"digits-{kind}-seed0" / "hypocrisy")
        assert all(record.identities.values()) and record.n == 24
    stored = np.load(tmp_path / "whole" / "digits-poisoned-seed0" / "poisoned.npy")
    assert stored.shape == (100, 1, 8, 8) and stored.dtype == np.uint8

    class Stop(Exception):
        """What ends the run in the middle."""

    measure, calls = experiment.hypocrisy, []

    def interrupted(*args: Any, **more: Any) -> Any:
        calls.append(more["name"])
        if len(calls) == 4:
            raise Stop
        return measure(*args, **more)

    monkeypatch.setattr(experiment, "hypocrisy", interrupted)
    with pytest.raises(Stop):
        RUN(Request(tmp_path / "cut", seeds=1, say=lambda _: None))
    monkeypatch.setattr(experiment, "hypocrisy", measure)
    with pytest.raises(ResumeError, match="seeds"):
        RUN(Request(tmp_path / "cut", seeds=2, resume=True, say=print))
    RUN(Request(tmp_path / "cut", seeds=1, resume=True, say=lambda _: None))
    assert figures(tmp_path / "cut") == figures(tmp_path / "whole")
