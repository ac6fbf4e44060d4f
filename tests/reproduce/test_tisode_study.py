"""The study of neural ODEs: its verdicts, and a tiny run from end to end."""

from __future__ import annotations

import dataclasses
import io
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from torchproof.recipes import recipe
from torchproof.recipes.comparison import Cell, Line, line_of
from torchproof.reproduce import EXPERIMENTS, Request, tisode
from torchproof.reproduce.study import DIGITS


def line(name: str, clean: float = 0.97, robust: float = 0.5, steady: float = 0.4) -> Line:
    cells = {
        seed: Cell(
            n=1000, clean=clean, robust=robust, pgd=robust, fgsm=robust + 0.1, loss=1.0,
            train_loss=1.0, train_pgd=0.5, standing=list(range(round(1000 * robust))), backward=0,
            seconds=1, epochs=2, catastrophic=0, overfitting=None, flags=[],
            figures={"steady": steady} if name not in (tisode.TWIN, tisode.ODE) else {},
        )
        for seed in range(3)
    }  # fmt: skip
    return line_of(name, "Standard", cells, cells)


def judged(*changed: Line) -> tuple[str, str]:
    usual = [line(tisode.TWIN), line(tisode.ODE), line(tisode.CONTROL), line(tisode.OURS),
             line(tisode.HEAVY, steady=0.02)]  # fmt: skip
    verdict, because = tisode.judge({one.name: one for one in [*usual, *changed]}, ())
    return verdict, because


def test_the_penalty_and_the_claim_are_judged_apart() -> None:
    verdict, because = judged()
    assert verdict == "does not show at this scale"
    assert "the penalty does what it says" in because and "falls 20.0 times" in because
    assert "no advantage over the CNN twin" in because and "+0.0 points" in because
    verdict, because = judged(line(tisode.OURS, robust=0.56))
    assert verdict == "shows" and "an advantage over the CNN twin" in because
    assert f"{tisode.OURS} +6.0" in because
    assert judged(line(tisode.OURS, robust=0.44))[0] == "contradicts"


def test_a_penalty_that_does_little_or_costs_much_does_not_do_what_it_says() -> None:
    better = line(tisode.OURS, robust=0.6)
    for weak in (
        line(tisode.HEAVY, steady=0.09), line(tisode.HEAVY, steady=0.02, clean=0.95),
    ):  # fmt: skip
        verdict, because = judged(better, weak)
        assert verdict == "does not show at this scale" and "does not do what it says" in because
    assert judged(better, line(tisode.HEAVY, steady=0.5))[0] == "contradicts"


def test_the_recipes_have_the_settings_of_the_paper() -> None:
    for name in ("mnist-odenet", "mnist-tisode"):
        plan = recipe(name)
        s = plan.settings
        assert (s.epochs, s.batch_size, s.lr, s.weight_decay) == (100, 128, 1e-3, 5e-4)
        assert (s.optimiser, s.schedule) == ("adam", "fifths")
        assert plan.augment == "GaussianNoise(sigmas=(50/255, 75/255, 100/255), p=0.5)"
    assert recipe("mnist-odenet").model == "odenet(h=0.1)"
    assert recipe("mnist-tisode").model == "tisode(h=0.05)"


def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, list[str]]:
    monkeypatch.setattr(tisode, "IMAGES", 12)
    monkeypatch.setattr(tisode, "FEW", 3)
    settings = {"epochs": 1, "batch_size": 50, "lr": 2e-3, "optimiser": "adam", "held_out": 20,
                "held_out_steps": 1}  # fmt: skip
    rows = {
        name: {
            **row,
            "model": str(row["model"]).replace("width=16", "width=4").replace("0.25", "1"),
        }
        for name, row in tisode.tisode_study.rows.items()
    }
    base = {**DIGITS, "n": 70, "settings": settings}
    study = dataclasses.replace(tisode.tisode_study, rows=rows, base=base, n=6)
    said: list[str] = []
    request = Request(tmp_path / "out", data_dir=tmp_path, say=said.append, seeds=2)
    return study(request), said


@pytest.mark.slow
def test_the_study_from_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchdiffeq", None)
    found, said = tiny(tmp_path, monkeypatch)
    rows = {row.what: row for row in found.rows}
    assert len(rows) == len(found.rows)
    names = list(tisode.tisode_study.rows)
    for name in names:
        for what in ("clean", "fast", "FGSM", "PGD-20", "Gaussian noise, sigma 100/255"):
            assert all(0 <= value <= 1 for value in rows[f"{name}: {what}"].ours)
        over = rows[f"{name}: FGSM minus the suite"]
        weak, strong = rows[f"{name}: FGSM"], rows[f"{name}: fast"]
        assert over.mean == pytest.approx(weak.mean - strong.mean)
    for name in names[1:]:
        for window in ("[T, 2T]", "[0, T]"):
            assert rows[f"{name}: integral of mean |f| over {window}"].mean > 0
        for way in ("steps of the training", "steps of a 4th"):
            assert rows[f"{name}, {way}: PGD-20"].n == 6
    assert rows["CNN, next seed (control): PGD-20 images of the CNN"].n == 24
    assert not any("dopri5" in what for what in rows)
    assert any("dopri5 is left out" in text for text in said)
    for name in ("picture.png", "speed.png"):
        drawn = (tmp_path / "out" / name).read_bytes()
        assert Image.open(io.BytesIO(drawn)).format == "PNG"
    assert EXPERIMENTS["tisode"] is tisode.tisode_study
