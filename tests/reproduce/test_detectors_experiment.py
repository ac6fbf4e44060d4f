"""`reproduce detectors`: a tiny run on the digits, the table and the verdict on records by hand."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from torchproof.core.ranking import auroc_interval
from torchproof.detect.bench.record import (
    Adaptive,
    Bench,
    Costs,
    Judged,
    Limit,
    Made,
    Rate,
    Told,
)
from torchproof.detect.bench.splits import Sizes
from torchproof.reproduce import detectors
from torchproof.reproduce.detectors import Part, detectors_experiment, parts_of
from torchproof.reproduce.detectors_figures import judge, rows
from torchproof.reproduce.detectors_picture import picture
from torchproof.reproduce.experiment import Partial, Request

WHOLE = detectors._part("digits", False)
MAIN, OTHER = "PGD linf:0.3", "DeepFool l2"


def tiny(name: str, paper: bool) -> Part:
    settings = WHOLE.plan.settings.model_copy(update={"epochs": 6})
    plan = WHOLE.plan.model_copy(update={"n": None, "settings": settings})
    return dataclasses.replace(
        WHOLE, plan=plan, sizes=Sizes(150, 80, 40, 2), attacks=("FGSM linf:0.3", MAIN, OTHER),
        detectors=("feature-squeezing", "nss(at_most=60)"),
    )  # fmt: skip


@pytest.mark.slow
def test_a_tiny_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detectors, "_part", tiny)
    said: list[str] = []
    empty = tmp_path / "no data"
    empty.mkdir()
    request = Request(tmp_path / "out", seeds=1, data_dir=empty, say=said.append)
    with pytest.raises(Partial):  # as a process that measures ahead
        detectors_experiment(dataclasses.replace(request.part(0), say=said.append))
    count = sum("fooled" in line for line in said)
    outcome = detectors_experiment(dataclasses.replace(request, resume=True))
    assert count == sum("fooled" in line for line in said) > 0
    assert any("digits take the place" in line for line in said)
    table = {row.what: row for row in outcome.rows}
    assert table[f"digits: feature-squeezing: AUROC, {MAIN}"].ci95 is not None
    assert any("trained on PGD linf:0.3, lowest on others" in what for what in table)
    assert table["digits: nss: false alarms, 5 % asked for"].n == 40
    assert table["digits: nss: robust accuracy with it, adaptive attack"].n == 2
    assert table["digits: feature-squeezing: AUROC, adaptive attack"].mean < 0.7
    assert {p.name for p in request.out.iterdir()} == {
        "digits-seed0", "locks", "outcome.json", "picture.png", "request.json", "table.md",
    }  # fmt: skip
    stored = Bench.read(request.out / "digits-seed0" / "bench")
    assert {one.trained_on for one in stored.judged if one.detector == "nss"} == {
        "FGSM linf:0.3", MAIN, OTHER,
    }  # fmt: skip
    before = json.loads((request.out / "outcome.json").read_text())["rows"]
    said.clear()
    again = detectors_experiment(
        Request(tmp_path / "out", seeds=1, resume=True, data_dir=empty, say=said.append)
    )
    assert [row.model_dump(mode="json") for row in again.rows] == before
    assert not any("fooled" in line or "epoch" in line for line in said)


def test_the_parts(tmp_path: Path) -> None:
    (small,) = parts_of(Request(tmp_path, data_dir=tmp_path, say=lambda text: None))
    assert small.data == "digits" and len(small.detectors) == 8
    real = detectors._part("mnist", False)
    assert real.sizes.fit == 2000 and real.plan.n == 10_000
    assert detectors._part("cifar10", True).attacks == ()


def rate(share: float, n: int) -> Rate:
    return Rate(share=share, ci95=(max(0.0, share - 0.02), share + 0.02), n=n)


def told(what: str, area: float) -> Told:
    caught = {"0.05": rate(area, 100)}
    return Told(what=what, kind="successful", n=100, auroc=area, ci95=(area - 0.05, area + 0.05),
                aupr=area, caught=caught, flagged=rate(area, 100))  # fmt: skip


def judged(
    name: str, area: float, *, other: float = 0.8, after: float | None = 0.4, alarms: float = 0.05,
    on: str | None = None,
) -> Judged:  # fmt: skip
    adaptive = Adaptive(
        threat="linf:0.3", plain=MAIN, attacks=2, n=50, misclassified=0 if after is None else 40,
        before=area, before_ci95=(area, area), after=after,
        after_ci95=None if after is None else (after, after), robust=rate(0.1, 50), seconds=1.0,
    )  # fmt: skip
    return Judged(
        detector=name, recipe=f"{name}()", trained_on=on, fitted_on=100, gradient="exact",
        threshold=Limit(value=0.0, fpr=0.05, n=100, ci95=(0.0, 0.1)), alarms=rate(alarms, 1000),
        rows=(told(MAIN, area), told(OTHER, other)), adaptive=adaptive,
        costs=Costs(fit=1, score=1, fit_megabytes=None, score_megabytes=None),
    )  # fmt: skip


def found(*each: Judged, refused: dict[str, str] | None = None) -> Bench:
    attacks = tuple(Made(name=n, about="", n=100, fooled=100, failed=0) for n in (MAIN, OTHER))
    return Bench(
        about={}, settings={"fpr": 0.05, "seed": 0}, accuracy=0.98, looked=200, fit=100,
        calibrate=100, test=100, main=MAIN, attacks=attacks, judged=each, refused=refused or {},
        seconds=1.0,
    )  # fmt: skip


GOOD = (judged("dnr", 0.95), judged("lid", 0.92, on=MAIN))


@pytest.mark.parametrize(
    ("each", "verdict", "said"),
    [
        (GOOD, "shows", "of 2 of 2 detectors by 0.52 to 0.55"),
        ((*GOOD, judged("nic", 0.6)), "shows", "below 0.7: nic 0.60"),
        (
            (*GOOD, judged("nic", 0.9, after=0.8)),
            "shows",
            "it failed for nic (0.10, robust accuracy 10 %)",
        ),
        ((*GOOD, judged("nic", 0.9, after=None)), "shows", "nic (nothing misclassified, robust"),
        ((*GOOD, judged("nic", 0.9, alarms=0.075)), "does not show at this scale", "nic on mnist"),
        ((*GOOD, judged("nic", 0.9, alarms=0.02)), "does not show at this scale", "nic on mnist"),
        ((*GOOD, judged("nic", 0.9, alarms=0.12)), "contradicts", "to 12.0 %"),
        ((*GOOD, judged("kd-bu", 0.7, on=MAIN)), "does not show at this scale", "kd-bu on mnist"),
        ((GOOD[0], judged("kd-bu", 0.7, on=MAIN)), "contradicts", "not worse"),
    ],
)
def test_the_verdict(each: tuple[Judged, ...], verdict: str, said: str) -> None:
    decided, text = judge({"mnist": [found(*each), found(*each)]})
    assert decided == verdict and said in text, text


def test_what_was_refused_is_told() -> None:
    decided, text = judge({"mnist": [found(*GOOD, refused={"sfad": "why"})]})
    assert decided == "does not show at this scale" and "refused: sfad on mnist" in text


def test_one_whose_adaptive_attack_was_refused_does_not_show() -> None:
    given = found(*GOOD).model_copy(update={"unattacked": {"sfad": "why"}})
    decided, text = judge({"mnist": [given]})
    assert decided == "does not show at this scale"
    assert "adaptive attack refused: sfad on mnist" in text


def test_the_rows() -> None:
    each = [found(*GOOD, judged("feature-squeezing", 0.9)), found(*GOOD)]
    table = {row.what: row for row in rows("mnist", each)}
    area = table[f"mnist: dnr: AUROC, {MAIN}"]
    assert area.ours == (0.95, 0.95) and area.published == 0.9 and "estimate" in area.setting
    assert area.ci95 == pytest.approx(auroc_interval(0.95, 2000, 200))  # seeds do not differ
    assert table[f"mnist: feature-squeezing: AUROC, {MAIN}"].published is None
    unseen = table[f"mnist: lid, trained on {MAIN}, lowest on others: AUROC, {OTHER}"]
    assert unseen.mean == 0.8
    assert table["mnist: dnr: false alarms, 5 % asked for"].n == 2000
    drop = table["mnist: dnr: fall of the AUROC"]
    assert drop.mean == pytest.approx(0.55) and drop.n == 40, "misclassified, not attacked ones"
    assert table["mnist: dnr: robust accuracy with it, adaptive attack"].n == 100
    fashion = {row.what: row for row in rows("fashion-mnist", each)}
    assert fashion[f"fashion-mnist: dnr: AUROC, {MAIN}"].published is None
    assert picture({"mnist": each}).startswith(b"\x89PNG")


def test_images_from_elsewhere_have_rows_of_their_own() -> None:
    strange = told("svhn", 0.3).model_copy(update={"kind": "elsewhere"})
    lid = GOOD[1].model_copy(update={"rows": (*GOOD[1].rows, strange)})
    table = {row.what: row for row in rows("mnist", [found(lid), found(lid), found(GOOD[1])])}
    area = table["mnist: lid, images from elsewhere: AUROC, svhn"]
    assert area.ours == (0.3, 0.3) and area.n == 100  # no attack, and not the lowest of them
    assert area.ci95 == pytest.approx(auroc_interval(0.3, 2000, 200))
    unseen = table[f"mnist: lid, trained on {MAIN}, lowest on others: AUROC, {OTHER}"]
    assert unseen.mean == pytest.approx(0.8)
