"""`reproduce cifs`: the union of attacks, the leak, and the verdict."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

from torchproof.attack.joint import joint_pgd
from torchproof.core.norms import Linf
from torchproof.core.threats import Threat
from torchproof.evaluate import Member, evaluate
from torchproof.nn import build
from torchproof.nn.cifs import mask_gradient
from torchproof.reproduce import Request, cifs, cifs_measures
from torchproof.reproduce.cifs import AT, LABEL, PREDICTED, PROBES, by_union
from torchproof.reproduce.cifs_measures import UNION, last_stage, measured, standing, union
from torchproof.reproduce.experiment import Row
from torchproof.reproduce.study import DIGITS

THREAT = Threat(Linf(), 0.06)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifs_measures, "QUERIES", 15)


def network() -> nn.Module:
    blocks = {"layer2.0": "CIFS(probe='mlp', rescale=True)"}
    return build("resnet", channels=1, size=8, classes=4, seed=0, width=4, insert=blocks).eval()


@pytest.mark.slow
def test_no_attack_is_stronger_than_the_union() -> None:
    model = network()
    x = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        y = model(x).argmax(1)
    y[:3] = (y[:3] + 1) % 4
    found = standing(model, x, y, THREAT, seed=0)
    assert len(found) == 10
    assert not any(rows[:3].any() for rows in found.values())  # wrong from the start
    worst = union(found.values())
    each = [int(rows.sum()) for rows in found.values()]
    assert int(worst.sum()) <= min(each) and len(set(each)) > 1
    assert all(worst[i] == all(rows[i] for rows in found.values()) for i in range(40))
    seen = measured(model, x, y, THREAT, seed=0)
    assert seen.left[UNION] == int(worst.sum()) and seen.alone[0] == 37
    assert all(seen.left[UNION] <= left for left in seen.left.values())
    with mask_gradient("smooth"):  # of those who ask
        assert torch.equal(model(x).argmax(1)[3:], y[3:])


def test_joint_attacks_are_members_of_an_evaluation() -> None:
    model = network()
    x = (torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 255).round() / 255
    with torch.no_grad():
        y = model(x).argmax(1)
    suite = [Member(f"joint {beta}", joint_pgd(THREAT, beta, steps=8)) for beta in (0.0, 10.0)]
    with mask_gradient("smooth"):
        report = evaluate(model, (x, y), THREAT, suite, quantised=True)
    assert report.clean_accuracy == 1 and report.robust_accuracy < 1
    assert {row.broken_by for row in report.examples} & {"joint 0.0", "joint 10.0"}


def test_the_last_stage_is_found() -> None:
    assert last_stage(network()) == "net.layer2"
    deep = build("resnet", channels=1, size=8, classes=2, seed=0, width=2, blocks=(1, 1, 1))
    assert last_stage(deep) == "net.layer3"


def rows(label: float) -> list[Row]:
    left = {AT: 0.5, PROBES: 0.5, LABEL: label, PREDICTED: 0.4}
    made = [Row(what=f"{name}: {UNION}", ours=(v, v), n=10) for name, v in left.items()]
    return [*made, Row(what=f"{LABEL}: label leak, clean images", ours=(0.1, 0.2), n=10)]


def test_the_verdict_is_that_of_the_union() -> None:
    assert by_union(rows(0.51))[0] == "shows"
    assert by_union(rows(0.49))[0] == "does not show at this scale"
    verdict, text = by_union(rows(0.4))
    assert verdict == "contradicts" and "(-10.0 points)" in text and "worth +15.0 points" in text


@pytest.mark.slow
def test_it_runs_from_end_to_end_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cifs, "IMAGES", 6)
    settings = {"epochs": 1, "batch_size": 50, "lr": 2e-3, "optimiser": "adam", "held_out": 20,
                "held_out_steps": 2}  # fmt: skip
    base = {**DIGITS, "n": 100, "settings": settings}
    study = dataclasses.replace(cifs.cifs_study, base=base, n=4)
    request = Request(tmp_path / "out", seeds=1, data_dir=tmp_path, say=lambda text: None)
    first = study(request)
    stored = (tmp_path / "out" / "outcome.json").read_text()
    assert first.because in stored and first.because.startswith("under the union")
    again = study(dataclasses.replace(request, resume=True))
    assert first.rows == again.rows
    what = [row.what for row in first.rows]
    for name in (AT, PROBES, LABEL, PREDICTED):
        assert f"{name}: {UNION}" in what and f"{name}: Square" in what
        assert (f"{name}: label leak, clean images" in what) == (name != AT)
    leak = {row.what: row.mean for row in first.rows}[f"{PROBES}: label leak, clean images"]
    assert leak == 0  # without masks there is nothing to leak through
