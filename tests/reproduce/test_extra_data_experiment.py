"""`reproduce extra-data`: its verdicts, and a tiny run from end to end."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from torchproof.core.errors import FileError, InputError
from torchproof.data import load
from torchproof.recipes.comparison import Cell, Line, line_of
from torchproof.reproduce import Request, extra_data
from torchproof.reproduce.study import DIGITS
from torchproof.train.rows import steps_of


def cells(*robust: float) -> dict[int, Cell]:
    return {
        seed: Cell(
            n=100, clean=0.9, robust=value, pgd=value, fgsm=value, loss=1, train_loss=1,
            train_pgd=value, standing=list(range(round(100 * value))), backward=5, seconds=1,
            epochs=2, catastrophic=0, overfitting=None, figures={}, flags=[],
        )
        for seed, value in enumerate(robust)
    }  # fmt: skip


@pytest.mark.parametrize(
    ("ours", "verdict"),
    [
        ((0.60, 0.61, 0.62), "shows"),
        ((0.50, 0.51, 0.62), "does not show at this scale"),
        ((0.40, 0.41, 0.42), "contradicts"),
        ((0.60,), "does not show at this scale"),  # one seed has no interval
    ],
)
def test_the_verdict(ours: tuple[float, ...], verdict: str) -> None:
    base = cells(*(0.5,) * len(ours))
    lines: dict[str, Line] = {
        name: line_of(name, "AT", cells(*values), base)
        for name, values in ((extra_data.PSEUDO, ours), (extra_data.TRUE, (0.7,) * len(ours)))
    }
    lines[extra_data.FEW] = line_of(extra_data.FEW, "AT", base, base)
    found, because = extra_data.judge(lines, ())
    assert found == verdict and "true labels: robust +20.0 points" in because


def test_with_the_stream_there_are_as_many_steps() -> None:
    few = extra_data.SIZES["mnist"][0]
    stream = extra_data.Stream({extra_data.PSEUDO: Path("pseudo.npz")}, few, 1, 1)
    rows, base = stream.study.rows, stream.study.base["settings"]
    assert isinstance(base, dict)
    steps = {}
    for name, row in rows.items():
        own = {**base, **row["settings"]}  # type: ignore[dict-item]
        left = few - own["held_out"]
        steps[name] = own["epochs"] * steps_of(left, own["batch_size"], own["extra_share"] if
                                               "extra" in row else 0.0)  # fmt: skip
    assert steps[extra_data.FEW] == 216 and steps[extra_data.PSEUDO] == 210


def test_there_are_no_settings_of_a_paper(tmp_path: Path) -> None:
    request = Request(tmp_path / "out", scale="paper", data_dir=tmp_path, say=lambda text: None)
    with pytest.raises(InputError, match="scale paper"):
        extra_data.extra_data_experiment(request)


@pytest.mark.slow
def test_it_runs_from_end_to_end_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = {**DIGITS, "settings": {**DIGITS["settings"], "epochs": 3}}  # type: ignore[dict-item]
    monkeypatch.setattr("torchproof.reproduce.study.DIGITS", few)
    monkeypatch.setattr(extra_data, "DIGITS", few)
    monkeypatch.setattr(extra_data, "STUDY", dataclasses.replace(extra_data.STUDY, n=12))
    monkeypatch.setitem(extra_data.SIZES, "digits", (100, 150))
    said: list[str] = []
    request = Request(tmp_path / "out", seeds=1, data_dir=tmp_path, say=said.append)
    found = extra_data.extra_data_experiment(request)
    names = {row.what.split(":")[0] for row in found.rows}
    assert names == {extra_data.FEW, extra_data.PSEUDO, extra_data.TRUE}
    train = load("digits", data_dir=tmp_path, split="train")
    with np.load(tmp_path / "out" / "true.npz") as kept:
        assert (kept["y_train"] == train.y[100:250].numpy()).all()
        assert (kept["x_train"] == train.x[100:250].numpy()).all()
    with np.load(tmp_path / "out" / "pseudo.npz") as kept:
        right = int((kept["y_train"] == train.y[100:250].numpy()).sum())
    (row,) = [row for row in found.rows if "right labels" in row.what]
    assert row.ours == (right / 150,) and row.n == 150
    claimed = (tmp_path / "out" / "request.json").read_text()
    assert str(tmp_path) not in claimed and '"stream": "' in claimed
    stored = [tmp_path / "out" / "runs" / "table.json", *(tmp_path / "out").rglob("config.json")]
    assert len(stored) == 5 and "npz:../pseudo.npz" in stored[0].read_text()
    assert not any(str(tmp_path) in file.read_text() for file in stored)
    with pytest.raises(FileError):  # before anything is trained
        extra_data.extra_data_experiment(request)
    said.clear()
    again = extra_data.extra_data_experiment(dataclasses.replace(request, resume=True))
    assert again.rows == found.rows and not any("epoch" in text for text in said)
