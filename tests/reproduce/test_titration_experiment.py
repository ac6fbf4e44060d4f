"""`reproduce titration`: how banks judge each other, verdicts by hand, a whole run of tiny
networks.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from torchproof.backdoor.bank import CLEAN, TRIGGERS, Entry, Recipe
from torchproof.backdoor.neural_cleanse import Cleansed, Search
from torchproof.backdoor.rule import Origin, calibrate
from torchproof.backdoor.titrate import Setting, Titration
from torchproof.core.errors import FileError, ResumeError
from torchproof.reproduce import titration as experiment
from torchproof.reproduce.experiment import Outcome, Request, Row
from torchproof.reproduce.titration import Part, part_of, titration_experiment
from torchproof.reproduce.titration_figures import (
    ALL,
    NAMES,
    RATIO,
    SEPARATES,
    Cleansing,
    Known,
    Reading,
    Readings,
    judge,
    known_row,
    rows,
    verdicts,
)

SETTING = Setting(100, 0.95, "own prediction", 1, False, 0)


def curve(*flips: int) -> Titration:
    """Of three classes, at one noise."""
    share = (sum(flips) / 100,)
    return Titration((0.75,), share, share, (flips,), (flips,), 0.0, None, SETTING)


def reading(kind: str, target: int | None, *flips: int) -> Reading:
    entry = Entry(f"{kind}-x", kind, target, 0.9, None if target is None else 0.99)
    return Reading(entry=entry, images=curve(*flips), noise=curve(5, 5, 5), seconds=0.5)


def bank(shift: int = 0) -> list[Reading]:
    """Four clean networks, one with a patch that shows at its target, one with a warp that does
    not.
    """
    clean = [reading(CLEAN, None, 8 + i + shift, 9 - i, 5 + i) for i in range(4)]
    return [*clean, reading("patch", 1, 9, 40, 5), reading("warp", 0, 9, 8, 6)]


def cleansing(kind: str, target: int | None, sizes: tuple[float, ...], seed: int = 0) -> Cleansing:
    verdict = Cleansed(sizes, (1.0,) * 3, 3.0, (0,) if min(sizes) < 2 else (), 5000, 60.0)
    return Cleansing(seed=seed, entry=Entry(kind, kind, target, 0.9, None), verdict=verdict)


def test_each_bank_is_judged_by_the_others() -> None:
    groups = [bank(), bank(2)]
    found = verdicts(groups, "images", "toys")
    clean = [one.images for one in groups[1] if one.entry.clean]
    bad = [one.images for one in groups[1] if not one.entry.clean]
    rule = calibrate(clean, bad, Origin("toys", "bank"))
    for verdict, one in zip(found[0], groups[0], strict=True):
        assert (verdict.score, verdict.suspected) == rule.score(one.images)
        assert verdict.level == pytest.approx(one.images.share[0])
        assert verdict.over == (verdict.score > rule.threshold)
        assert verdict.target == one.entry.target and verdict.guess == one.images.target()


def test_a_single_bank_is_cut_in_halves() -> None:
    one = [*bank(), *bank(1)]
    (found,) = verdicts([one], "images", "toys")
    order = sorted(one, key=lambda r: r.entry.kind)
    halves = order[::2], order[1::2]
    rule = calibrate(
        [r.images for r in halves[1] if r.entry.clean],
        [r.images for r in halves[1] if not r.entry.clean],
        Origin("toys", "bank"),
    )
    assert [v.score for v in found[:6]] == [rule.score(r.images)[0] for r in halves[0]]


def test_the_rows() -> None:
    groups = [bank(), bank(2)]
    by_images, by_noise = (verdicts(groups, base, "toys") for base in ("images", "noise"))
    slow = [cleansing(CLEAN, None, (9, 9, 9)), cleansing("patch", 1, (9, 1, 9))]
    slow += [cleansing(CLEAN, None, (1, 9, 9), 1), cleansing("patch", 1, (1, 9, 9), 1)]
    found = {row.what: row for row in rows(groups, by_images, by_noise, slow)}
    assert found["AUROC of the scan, patch"].ours == (1, 1)
    assert found[SEPARATES].ours[0] == pytest.approx(
        (1 + found["AUROC of the scan, warp"].ours[0]) / 2
    )
    assert found["target named by the scan, patch"].ours == (1, 1)
    assert found[f"target named without a bank, {ALL}"].ours == (1, 1)  # 40 of 1, and 9 of 0
    assert found[f"noise images: AUROC of T alone, {ALL}"].ours == (0.5, 0.5)
    assert found["warp: success of the backdoors"].ours == (0.99, 0.99)
    assert found["clean: accuracy of the networks"].n == 8
    assert found[RATIO].ours == (120, 120) and found["scan, processor seconds"].ours == (0.5, 0.5)
    passes = found["Neural Cleanse / scan, passes forward and backward"]
    assert passes.ours == pytest.approx((10000 / 200,) * 2)
    assert found["Neural Cleanse: smallest mask at the target"].ours == (1, 0)
    assert found["Neural Cleanse: clean networks flagged"].ours == (0, 1)
    assert found["Neural Cleanse: trojaned networks flagged"].ours == (1, 1)
    area = found["AUROC of the scan, patch"]
    assert area.ci95 is not None and area.ci95[0] < 1 and area.n == 10


def table(area: float, named: float, ratio: float) -> list[Row]:
    def row(what: str, value: float) -> Row:
        return Row(what=what, ours=(value, value), n=24, ci95=(0.5, 1.0))

    kinds = [row("AUROC of the scan, patch", 1.0), row("AUROC of the scan, warp", 0.6)]
    return [row(SEPARATES, area), *kinds, row(NAMES, named), row(RATIO, ratio)]


@pytest.mark.parametrize(
    ("figures", "verdict"),
    [
        ((0.95, 0.8, 150.0), "shows"),
        ((0.9, 0.75, 100.0), "shows"),
        ((0.89, 0.8, 150.0), "does not show at this scale"),
        ((0.95, 0.7, 150.0), "does not show at this scale"),
        ((0.95, 0.8, 90.0), "does not show at this scale"),
        ((0.5, 0.8, 150.0), "contradicts"),
    ],
)
def test_the_verdict(figures: tuple[float, float, float], verdict: str) -> None:
    found, because = judge(table(*figures))
    assert found == verdict and "by kind: patch 1.00, warp 0.60" in because
    assert f"AUROC {figures[0]:.2f} (0.50 to 1.00" in because and "Neural Cleanse" in because


def test_packed_networks() -> None:
    groups = [bank()]
    known = Known(name="net", data="toys", target=1, curve=curve(9, 60, 5))
    row = known_row(known, groups, "toys")
    assert "target 1" in row.what and "suspected 1" in row.setting and row.ours[0] > 3
    other = known_row(known.model_copy(update={"data": "else", "target": None}), groups, "toys")
    assert "clean" in other.what and other.ours == pytest.approx((0.74,))
    assert other.setting == "noise leads to 1"


def test_the_part(tmp_path: Path, data_dir: Path) -> None:
    small = part_of(Request(tmp_path, data_dir=data_dir))
    assert (small.data, small.clean, small.trojaned) == ("mnist", 12, 12)
    large = part_of(Request(tmp_path, "paper", data_dir=data_dir))
    assert large.recipe.n == 60000 and large.search == Search() and len(large.cleansed) == 5


def test_without_data_the_digits_take_its_place(tmp_path: Path) -> None:
    assert part_of(Request(tmp_path, data_dir=tmp_path, say=lambda _: None)).data == "digits"


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe(network="mlp", n=150, epochs=1, batch_size=32, lr=5e-3, steps=10)
    part = Part("digits", recipe, 4, 4, 40, (CLEAN, "patch"), Search(rounds=1, batches=1), 40)
    monkeypatch.setattr(experiment, "part_of", lambda request: part)


def figures(out: Path) -> dict[str, Any]:
    """What must not depend on being interrupted; times do."""
    stored: dict[str, Any] = json.loads((out / "outcome.json").read_text())
    kept = [r for r in stored["rows"] if "seconds" not in r["what"]]
    return {"rows": kept, "settings": stored["settings"], "seeds": stored["seeds"]}


@pytest.mark.slow
def test_a_run_and_its_resumption(tiny: None, tmp_path: Path) -> None:
    said: list[str] = []

    def request(**more: Any) -> Request:
        given = {"seeds": 2, "data_dir": tmp_path / "none", "say": said.append}
        return Request(tmp_path / "out", **{**given, **more})

    whole = titration_experiment(request())
    assert Outcome.model_validate_json((tmp_path / "out" / "outcome.json").read_text()) == whole
    assert (tmp_path / "out" / "picture.png").read_bytes().startswith(b"\x89PNG")
    found = {row.what: row for row in whole.rows}
    assert len(found[SEPARATES].ours) == 2 and found[SEPARATES].n == 16
    assert found[RATIO].mean > 0 and "no badnet_mnist" in " ".join(said)
    assert {f"AUROC of the scan, {kind}" for kind in TRIGGERS} <= set(found)
    before = figures(tmp_path / "out")
    said.clear()
    for name in ("outcome.json", "seed1/readings.json", "seed0/cleanse-clean-00.json"):
        (tmp_path / "out" / name).unlink()
    again = titration_experiment(request(resume=True))
    assert figures(tmp_path / "out") == before and again.verdict in whole.verdict
    assert not any("accuracy" in text for text in said), "a network was trained again"
    with pytest.raises(ResumeError, match="seeds"):
        titration_experiment(request(seeds=1, resume=True))
    stored = Readings.read(tmp_path / "out" / "seed0" / "readings.json")
    assert [one.entry.kind for one in stored.networks].count(CLEAN) == 4
    (tmp_path / "out" / "seed0" / "readings.json").write_text("{")
    with pytest.raises(FileError, match="remove that file"):
        titration_experiment(request(resume=True))


def test_readings_come_back_as_they_were(tmp_path: Path) -> None:
    one = reading("patch", 1, 1, 2, 3)
    changed = replace(one.images, sigma_50=0.7)
    Readings(networks=(one.model_copy(update={"images": changed}),)).write(tmp_path / "r.json")
    (again,) = Readings.read(tmp_path / "r.json").networks
    assert again.images == changed and again.entry == one.entry and again.passes == 200
