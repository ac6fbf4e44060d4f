"""HAT's study: its verdicts, and the network that its helper labels come from."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from torchproof.core.errors import FileError
from torchproof.recipes.comparison import Cell, line_of
from torchproof.reproduce import Request, hat
from torchproof.reproduce.study import DIGITS


def cell(clean: float, robust: float) -> Cell:
    return Cell(
        n=100, clean=clean, robust=robust, pgd=robust, fgsm=robust, loss=1, train_loss=1,
        train_pgd=robust, standing=list(range(round(100 * robust))), backward=5, seconds=1,
        epochs=2, catastrophic=0, overfitting=None, figures={}, flags=[],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("clean", "robust", "verdict"),
    [
        (0.93, 0.70, "shows"),
        (0.93, 0.68, "does not show at this scale"),
        (0.902, 0.70, "does not show at this scale"),
        (0.87, 0.67, "contradicts"),
    ],
)
def test_verdicts_follow_their_thresholds(clean: float, robust: float, verdict: str) -> None:
    base = {0: cell(0.9, 0.7)}
    lines = {
        "TRADES": line_of("TRADES", "", base, base),
        "HAT": line_of("HAT", "", {0: cell(clean, robust)}, base),
        "MMA": line_of("MMA", "", {0: cell(0.9, 0.6)}, base),
    }
    assert hat.judge(lines, ())[0] == verdict


@pytest.mark.slow
def test_it_runs_from_end_to_end_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = {**DIGITS, "n": 200, "settings": {**DIGITS["settings"], "epochs": 2, "held_out": 40}}  # type: ignore[dict-item]
    monkeypatch.setattr("torchproof.reproduce.study.DIGITS", few)
    monkeypatch.setattr(hat, "STUDY", dataclasses.replace(hat.STUDY, n=20))
    said: list[str] = []
    request = Request(tmp_path / "out", seeds=1, data_dir=tmp_path, say=said.append)
    found = hat.hat_experiment(request)
    assert {row.what.split(":")[0] for row in found.rows} == {"TRADES", "HAT", "MMA"}
    assert any(text.startswith("standard: epoch 2") for text in said)
    said.clear()
    with pytest.raises(FileError):
        hat.hat_experiment(request)
    assert not any("epoch" in text for text in said)  # refused before anything is trained
    again = hat.hat_experiment(dataclasses.replace(request, resume=True))
    assert again.rows == found.rows and not any("epoch" in text for text in said)


def test_at_the_scale_of_the_paper_methods_differ_in_the_method_alone(tmp_path: Path) -> None:
    request = Request(tmp_path, scale="paper", data_dir=tmp_path, say=lambda text: None)
    rows = hat.with_teacher(tmp_path / "standard").table(request).rows
    own = {"method", "teacher"}
    assert rows["TRADES"].model_dump(exclude=own) == rows["HAT"].model_dump(exclude=own)
    assert rows["TRADES"].teacher is None and rows["TRADES"].method == "TRADES(beta=2.5)"
