"""`reproduce anomaly`: a tiny run on the digits, the table and the verdict on rows by hand."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from torchproof.anomaly.itsr import ITSR
from torchproof.reproduce import anomaly_parts
from torchproof.reproduce.anomaly import anomaly_experiment
from torchproof.reproduce.anomaly_figures import (
    AAE,
    LATENTS,
    METHODS,
    PLAIN,
    PUBLISHED,
    REJECT,
    Areas,
    Found,
    Point,
    Run,
    judge,
    rows,
)
from torchproof.reproduce.anomaly_parts import TILES, Part, parts_of
from torchproof.reproduce.experiment import Partial, Request

(WHOLE,) = anomaly_parts._small("digits")


def tiny(name: str) -> tuple[Part, ...]:
    itsr = ITSR(2, 2, 1, 1, share=0.1)
    part = dataclasses.replace(
        WHOLE, marks=(1, 3), early=1, late=3, width=8, itsr=itsr, shares=(0.0, 0.05)
    )
    return (part,)


@pytest.mark.slow
def test_a_tiny_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anomaly_parts, "_small", tiny)
    said: list[str] = []
    empty = tmp_path / "no data"
    empty.mkdir()
    request = Request(tmp_path / "out", seeds=2, resume=True, data_dir=empty, say=said.append)
    with pytest.raises(Partial):  # what one of several processes does
        anomaly_experiment(request.part(1))
    assert not list(request.out.glob("*.png"))
    outcome = anomaly_experiment(request)
    assert outcome.seeds == (0, 1) and any("digits take the place" in line for line in said)
    table = {row.what.split(": ", 1)[1]: row for row in outcome.rows}
    for method in METHODS:
        assert len(table[f"{method}: AUROC"].ours) == 2
    assert "AAE, mean log-likelihood of latents, outlier training images, nats" in table
    assert table["planted outliers found by early rejection"].n == 10  # 5 for each seed
    assert {p.name for p in request.out.iterdir()} == {
        "digits-0-against-2", "heat-maps-digits-0-against-2.png", "locks", "outcome.json",
        "picture.png", "request.json", "table.md",
    }  # fmt: skip
    before = json.loads((request.out / "outcome.json").read_text())["rows"]
    said.clear()
    again = anomaly_experiment(
        Request(tmp_path / "out", seeds=2, resume=True, data_dir=empty, say=said.append)
    )
    assert [row.model_dump(mode="json") for row in again.rows] == before
    assert not any("seed" in line for line in said)  # nothing is trained again


def test_the_parts(tmp_path: Path) -> None:
    (small,) = parts_of(Request(tmp_path, data_dir=tmp_path, say=lambda text: None))
    assert small.data == "digits" and small.late == 10 * small.early and small.itsr.rounds == 10
    assert {15, 150} <= set(small.marks) and 0.0 in small.shares and 0.1 in small.shares


@pytest.mark.parametrize("made", [anomaly_parts._small, anomaly_parts._paper])
def test_the_pairs_of_a_data_set_do_not_share_a_folder(
    made: Callable[[str], tuple[Part, ...]],
) -> None:
    parts = [part for name in ("mnist", "fashion-mnist", TILES) for part in made(name)]
    assert len({part.slug for part in parts}) == len({part.about for part in parts}) == 4
    assert {part.about for part in parts} >= set(PUBLISHED)
    for part in parts:
        assert {part.early, part.late} <= set(part.marks) and part.late == 10 * part.early
        assert (part.early == 5) == bool(
            part.note
        )  # other epochs than the rest: the reader is told


def point(epochs: int, outlier: float, balanced: float, area: float) -> Point:
    return Point(
        epochs=epochs, normal=0.01, outlier=outlier / 100, balanced=balanced, left_alone=0.5,
        found=0.9, balanced_held=0.8, auroc=area, auroc_error=area, auroc_likelihood=0.4,
    )  # fmt: skip


def run(method: str, seed: int, points: tuple[Point, ...], true: int = 3) -> Run:
    latent = method in (AAE, LATENTS)
    stages = 4 if method == LATENTS else 2
    return Run(
        method=method, share=0.05, seed=seed, planted=4, points=points,
        rejected=(0, *[5] * (stages - 1)), true=(0, *[true] * (stages - 1)), negative=1,
        negative_true=1, latent_area=0.2 if latent else None, contrast=(1.1,) * (stages - 1),
        likelihood_normal=(-2.0, -3.0) if latent else (),
        likelihood_outlier=(-1.5,) if latent else (),
    )  # fmt: skip


def found(
    ratios: tuple[float, float] = (1.6, 1.2), right: tuple[float, float] = (0.9, 0.7),
    gains: tuple[float, float] = (0.06, 0.04), true: int = 3,
) -> Found:  # fmt: skip
    """Plain AUROC .90 and .92 over two seeds; oracle and rejection gain as given."""
    runs = []
    for seed, base in enumerate((0.90, 0.92)):
        for method in METHODS:
            gain = {PLAIN: 0.0, REJECT: gains[1], "oracle removal": gains[0]}.get(method, 0.01)
            points = (
                point(15, ratios[0], right[0], base),
                point(150, ratios[1], right[1], base + gain),
            )
            runs.append(run(method, seed, points, true))
    areas = (Areas(areas={"lof": 0.8}, n=40),) * 2
    return Found("toys", 15, 150, 0.05, tuple(runs), areas, {PLAIN: 0.69})


def test_the_rows() -> None:
    table = {row.what.removeprefix("toys: "): row for row in rows(found())}
    assert table["outlier / normal training error, after 15 epochs"].mean == pytest.approx(1.6)
    assert table["outlier / normal training error, after 150 epochs"].mean == pytest.approx(1.2)
    assert table["balanced accuracy at the paper's threshold, after 150 epochs"].ours == (0.7, 0.7)
    plain = table["plain: balanced accuracy at the paper's threshold"]
    assert plain.published == 0.69 and "1 % contamination" in plain.setting
    assert table["oracle removal: AUROC"].ours == pytest.approx((0.96, 0.98))
    assert table["lof: AUROC"].ours == (0.8, 0.8)
    assert table["planted outliers found by early rejection"].ours == (0.75, 0.75)
    assert table["outliers among the early rejected"].ours == (0.6, 0.6)
    assert table["outliers among what ITSR makes worse"].mean == 1.0
    area = table["AAE: AUROC of low latent likelihood, training images"]
    assert area.mean == 0.2 and area.n == 3
    likelihood = table["AAE, mean log-likelihood of latents, normal training images, nats"]
    assert likelihood.mean == -2.5 and likelihood.n == 2


@pytest.mark.parametrize(
    ("given", "verdict"),
    [
        ({}, "shows"),
        ({"ratios": (1.45, 1.2)}, "does not show at this scale"),
        ({"ratios": (1.9, 1.5)}, "does not show at this scale"),
        ({"ratios": (1.6, 1.7)}, "contradicts"),
        ({"ratios": (1.1, 1.3)}, "does not show at this scale"),  # never told apart
        ({"right": (0.7, 0.71)}, "does not show at this scale"),
        ({"true": 1}, "does not show at this scale"),
        ({"gains": (0.06, 0.02)}, "does not show at this scale"),
        ({"gains": (0.01, 0.0)}, "shows"),  # the oracle gains less than seeds differ by
    ],
)
def test_the_verdict(given: dict[str, object], verdict: str) -> None:
    said, text = judge({"toys": found(**given)})  # type: ignore[arg-type]
    assert said == verdict and "early rejection finds" in text


def test_every_part_must_show_it() -> None:
    said, text = judge({"a": found(), "b": found(ratios=(1.2, 1.1))})
    assert said == "does not show at this scale" and text.count("AUROC") == 2
    assert "a (shows): " in text and "b (does not show at this scale): " in text
    assert judge({"a": found(), "b": found(ratios=(1.7, 1.8))})[0] == "contradicts"


def test_a_clean_training_set_is_told_beside() -> None:
    whole = found()
    clean = run(PLAIN, 0, (point(15, 1.0, 0.95, 0.9), point(150, 1.0, 0.75, 0.9)))
    clean = clean.model_copy(update={"share": 0.0})
    beside = dataclasses.replace(whole, runs=(*whole.runs, clean))
    text = judge({"toys": beside})[1]
    assert "90.0 to 70.0 % (95.0 to 75.0 % without outliers in training)" in text
    table = {row.what: row for row in rows(beside)}
    late = table[
        "toys: balanced accuracy at the paper's threshold, at 0 % contamination, 150 epochs"
    ]
    assert late.ours == (0.75,)
