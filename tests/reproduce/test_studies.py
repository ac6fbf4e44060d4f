"""Studies of training methods: every row can be built, verdicts follow their thresholds, small
ones run from end to end.
"""

from __future__ import annotations

import dataclasses
import functools
import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from torchproof.core.errors import InputError
from torchproof.recipes import Many
from torchproof.recipes.comparison import Cell, Line, line_of
from torchproof.reproduce import (
    EXPERIMENTS,
    Request,
    Row,
    awp,
    fat,
    iat,
    jsigr,
    overfitting,
    single_step,
    spat,
)
from torchproof.reproduce.study import DIGITS, Study

STUDIES = {name: made for name, made in EXPERIMENTS.items() if isinstance(made, Study)}


def request(tmp_path: Path, **more: Any) -> Request:
    return Request(tmp_path / "out", data_dir=tmp_path, say=lambda text: None, **more)


def test_robust_overfitting_needs_both_halves() -> None:
    """The fall of held-out accuracy, and better test accuracy of the weights chosen by it."""
    at = line("AT")
    fallen = {
        seed: cell.model_copy(update={"overfitting": 0.05}) for seed, cell in at.cells.items()
    }
    lines = {"AT": at.model_copy(update={"cells": fallen})}

    def rows(held: float, last: float) -> list[Row]:
        return [
            Row.share(f"AT, weights {name}: fast", [round(100 * share)] * 3, [100] * 3)
            for name, share in zip(overfitting.NAMES, (held, last), strict=True)
        ]

    assert overfitting.judge(lines, rows(0.5, 0.4))[0] == "shows"
    assert overfitting.judge(lines, rows(0.4, 0.4))[0] == "does not show at this scale"
    assert overfitting.judge(lines, ())[0] == "does not show at this scale"
    assert overfitting.judge({"AT": at}, rows(0.5, 0.4))[0] == "does not show at this scale"


@pytest.mark.parametrize("name", STUDIES)
def test_every_row_can_be_built_without_its_data(name: str, tmp_path: Path) -> None:
    """The bundled digits take the place of what is not there."""
    study = STUDIES[name]
    table = study.table(request(tmp_path, seeds=1))
    assert list(table.rows) == list(study.rows)
    assert all(plan.data == "digits" for plan in table.rows.values())
    many = Many(table, tmp_path / "out", data_dir=tmp_path)
    for plan in table.rows.values():
        assert many._prepared(plan, 0).threat is not None


@pytest.mark.parametrize("name", STUDIES)
def test_published_figures_belong_to_rows(name: str, tmp_path: Path) -> None:
    assert set(STUDIES[name].published) <= set(STUDIES[name].rows)
    if any("paper" in row for row in STUDIES[name].rows.values()):
        table = STUDIES[name].table(request(tmp_path, scale="paper", seeds=1))
        assert table.evaluate.suite == "standard" and table.evaluate.n == 10000
        assert all(plan.data in ("cifar10", "mnist") for plan in table.rows.values())
    else:
        with pytest.raises(InputError, match="scale paper"):
            STUDIES[name].table(request(tmp_path, scale="paper"))


def line(name: str, **values: Any) -> Line:
    n = 1000
    robust = values.get("robust", 0.5)
    given = {
        "clean": 0.9, "pgd": 0.5, "fgsm": 0.5, "loss": 1.0, "train_loss": 0.5, "train_pgd": 0.5,
        "backward": 7.0, "catastrophic": 0, **values,
    }  # fmt: skip
    given["robust"] = robust
    cells = {
        seed: Cell(n=n, standing=list(range(round(robust * n))), seconds=1, epochs=2,
                   overfitting=None, figures={}, flags=[], **given)
        for seed in range(3)
    }  # fmt: skip
    return line_of(name, "AT", cells, cells)


def verdict(module: Any, *lines: Line) -> str:
    return str(module.judge({one.name: one for one in lines}, ())[0])


def test_verdicts_follow_their_thresholds() -> None:
    shows, not_here, against = "shows", "does not show at this scale", "contradicts"
    at = line("AT")
    assert verdict(awp, at, line("AWP", loss=0.94, train_loss=0.5)) == shows
    assert verdict(awp, at, line("AWP", loss=0.97, train_loss=0.6)) == not_here
    assert verdict(awp, at, line("AWP", loss=1.2, train_loss=0.5)) == against

    name = "FAT, tau 0"
    assert verdict(fat, at, line(name, clean=0.91, robust=0.45, backward=5)) == shows
    assert verdict(fat, at, line(name, clean=0.91, robust=0.39, backward=5)) == not_here
    assert verdict(fat, at, line(name, clean=0.91, robust=0.45, backward=7)) == not_here
    assert verdict(fat, at, line(name, clean=0.85, robust=0.35, backward=5)) == against

    half = line("half AT", clean=0.92)
    assert verdict(iat, at, half, line("IAT", clean=0.93)) == shows
    assert verdict(iat, at, half, line("IAT", clean=0.91)) == not_here
    assert verdict(iat, at, half, line("IAT", clean=0.87)) == against

    fgsm = line("FGSM-AT", catastrophic=2, pgd=0.1)
    pgd, combined = line("PGD-AT"), line(single_step.COMBINED)
    assert verdict(single_step, fgsm, pgd, combined) == shows
    assert verdict(single_step, line("FGSM-AT"), pgd, combined) == not_here
    late = line(single_step.COMBINED, catastrophic=1)
    assert verdict(single_step, fgsm, pgd, late) == not_here
    assert verdict(single_step, line("FGSM-AT"), pgd, late) == against

    trades, head = line("TRADES"), line("TRADES, cosine head")
    assert verdict(spat, trades, head, line("SPAT", robust=0.51)) == shows
    assert verdict(spat, trades, head, line("SPAT", robust=0.5)) == not_here
    assert verdict(spat, trades, head, line("SPAT", robust=0.4)) == against

    plain, alone = line("plain", robust=0.3), line("Jacobian alone")
    ours = {one.name: one for one in (plain, alone, line("J-SIGR", robust=0.6))}
    assert jsigr.judge(ours, inspected())[0] == shows
    assert jsigr.judge(ours, inspected(norm=5.0))[0] == not_here  # only 4.5 times smaller
    assert jsigr.judge(ours, inspected(control=None))[0] == not_here  # one seed
    assert jsigr.judge(ours, inspected(control=(0.5, 0.95, 0.9)))[0] == not_here
    assert jsigr.judge(ours, inspected(control=(0.95, 0.96, 0.97)))[0] == against
    lower = ours | {"J-SIGR": line("J-SIGR", robust=0.6, clean=0.8)}
    assert jsigr.judge(lower, inspected())[0] == not_here


def inspected(
    norm: float = 4.0, control: tuple[float, ...] | None = (0.4, 0.36, 0.33)
) -> list[Row]:
    """Rows of J-SIGR's experiment: a plain network has a mean squared norm of 100, and J-SIGR keeps
    90 % of transferred images.
    """
    squares = {"plain": 100.0, "J-SIGR": norm}
    rows = [
        Row(what=f"{name}: squared norm of dz/dx, mean over images", ours=(value,), n=9, unit="")
        for name, value in squares.items()
    ]
    kept = {"J-SIGR": (0.9, 0.92, 0.91), "plain, next seed (control)": control}
    for eps in jsigr.RADII:
        rows += [
            Row(what=f"{name}: PGD-20 images of the plain network, eps {eps}", ours=ours, n=9)
            for name, ours in kept.items()
            if ours is not None
        ]
    return rows


def small(study: Study, names: list[str]) -> Study:
    settings = {"epochs": 1, "batch_size": 50, "lr": 2e-3, "optimiser": "adam", "held_out": 20,
                "held_out_steps": 2}  # fmt: skip
    base = {**DIGITS, "model": "small-cnn(widths=(4, 8), hidden=16)", "n": 120,
            "settings": settings}  # fmt: skip
    rows = {name: study.rows[name] for name in names}
    return dataclasses.replace(study, rows=rows, base=base, n=12)


def test_a_study_runs_from_end_to_end_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(awp, "IMAGES", 10)
    few = functools.partial(awp.weight_landscape, radii=(-1.0, 0.0, 1.0), directions=2, steps=2)
    monkeypatch.setattr(awp, "weight_landscape", few)
    study = small(awp.awp_study, ["AT", "AWP"])
    first = study(request(tmp_path, seeds=2))
    again = study(request(tmp_path, seeds=2, resume=True))
    assert first.rows == again.rows and first.because == again.because
    assert [row.what for row in first.rows[:4]] == [
        "AT: clean", "AT: fast", "AWP: clean", "AWP: fast",
    ]  # fmt: skip
    assert all(row.n == 24 for row in first.rows[:4]) and len(first.rows) == 6
    for name in ("picture.png", "landscape.png"):
        assert Image.open(io.BytesIO((tmp_path / "out" / name).read_bytes())).format == "PNG"
    assert "published" in (tmp_path / "out" / "table.md").read_text()


@pytest.mark.slow
def test_jsigr_is_inspected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsigr, "IMAGES", 8)
    study = small(jsigr.jsigr_study, ["plain", "J-SIGR", "Jacobian alone"])
    found = study(request(tmp_path, seeds=2))
    what = [row.what for row in found.rows]
    assert "plain, next seed (control): PGD-20 images of the plain network, eps 0.1" in what
    assert "plain: PGD-20 images of the plain network, eps 0.1" not in what
    norms = {row.what: row.mean for row in found.rows if "squared norm" in row.what}
    assert len(norms) == 3 and all(value > 0 for value in norms.values())
    left = {row.what: row.ours for row in found.rows if "white-box" in row.what}
    for name in ("plain", "J-SIGR", "Jacobian alone"):
        fast, step = (left[f"{name}: {w}, white-box, eps 0.2"] for w in ("fast", "one step"))
        assert len(fast) == 2 and all(a <= b for a, b in zip(fast, step, strict=True))
        assert (tmp_path / "out" / "white-box" / name / "seed1" / "result.json").exists()
    drawn = (tmp_path / "out" / "saliency.png").read_bytes()
    assert Image.open(io.BytesIO(drawn)).format == "PNG"
