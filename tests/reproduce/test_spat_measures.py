"""What `reproduce spat` measures beside its table: class pairs, and unscaled cosines."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import pytest
import torch
from PIL import Image

from torchproof.core.errors import ModelError
from torchproof.nn import build
from torchproof.recipes.comparison import Cell, line_of
from torchproof.reproduce import Request, Row, spat
from torchproof.reproduce import spat_measures as measures
from torchproof.reproduce.study import DIGITS


def test_unscaled_logits_are_cosines() -> None:
    net = build("small-cnn", head="cosine", scale=8, channels=1, size=8, classes=10).eval()
    x = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        cosines, logits = measures.Unscaled(net)(x), net(x)
    assert torch.allclose(8 * cosines, logits) and float(cosines.abs().max()) <= 1
    plain = build("small-cnn", channels=1, size=8, classes=10).eval()
    with pytest.raises(ModelError, match="0 cosine heads"):
        measures.Unscaled(plain)(x)


def test_confusion_counts_every_image_once() -> None:
    y, answer = torch.tensor([0, 0, 1, 2, 2, 2]), torch.tensor([0, 1, 1, 0, 0, 1])
    found = measures.confusion(answer, y, 3)
    assert found.tolist() == [[1, 1, 0], [0, 1, 0], [2, 1, 0]]
    row = measures._first_rivals("AT", [found, found])
    assert row.ours == (3 / 4, 3 / 4) and row.n == 8  # 1 of 1, and 2 of 3, go to the first rival
    right = torch.eye(3, dtype=torch.long)
    assert measures._first_rivals("AT", [right]).n == 0


def test_the_hardest_pairs_are_those_of_all_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    one = torch.tensor([[[0, 10, 0], [0, 10, 0], [0, 0, 10]]])  # 0 is always answered 1
    other = torch.tensor([[[10, 0, 0], [0, 10, 0], [6, 0, 4]]])  # 2 is often answered 0
    rows = measures.hardest({"one": one, "other": other}, ("a", "b", "c"))
    shares = {row.what: row.mean for row in rows}
    assert [row.what for row in rows[:2]] == [
        "one: images of a answered b under PGD-20", "other: images of a answered b under PGD-20",
    ]  # fmt: skip
    assert shares["one: images of a answered b under PGD-20"] == 1
    assert shares["other: images of c answered a under PGD-20"] == 0.6
    drawn = measures.drawn({"one": one, "other": other}, ("a", "b", "c"))
    assert Image.open(io.BytesIO(drawn)).format == "PNG"


def test_the_verdict_says_what_unscaled_cosines_hide() -> None:
    cell = Cell(
        n=100, clean=0.9, robust=0.5, pgd=0.5, fgsm=0.5, loss=1, train_loss=1, train_pgd=0.5,
        standing=list(range(50)), backward=5, seconds=1, epochs=2, catastrophic=0,
        overfitting=None, figures={}, flags=[],
    )  # fmt: skip
    names = ("TRADES", "TRADES, cosine head", "SPAT")
    lines = {name: line_of(name, "", {0: cell}, {0: cell}) for name in names}
    row = Row(what=f"SPAT: {measures.OVER}", ours=(0.1, 0.2), n=100)
    verdict, because = spat.judge(lines, [row])
    assert verdict == spat.judge(lines, [])[0] == "does not show at this scale"
    assert "15.0 points that PGD-20 on unscaled cosines misses" in because


@pytest.mark.slow
def test_it_is_measured_on_the_networks_of_the_study(tmp_path: Path) -> None:
    study = spat.spat_study
    names = ["TRADES", "TRADES, cosine head", "SPAT"]
    few = {"epochs": 1, "batch_size": 50, "lr": 2e-3, "optimiser": "adam", "held_out": 20,
           "held_out_steps": 2}  # fmt: skip
    base = {**DIGITS, "n": 200, "settings": few}
    study = dataclasses.replace(study, rows={k: study.rows[k] for k in names}, base=base, n=20)
    rows = study.rows
    for name in names:  # a narrower network, with the head of the row
        head = "" if name == "TRADES" else ", head='cosine', scale=8"
        model = f"small-cnn(widths=(4, 8), hidden=16{head})"
        study = dataclasses.replace(
            study, rows={**study.rows, name: {**rows[name], "model": model}}
        )
    request = Request(tmp_path / "out", seeds=1, data_dir=tmp_path, say=lambda text: None)
    found = study(request)
    what = {row.what: row for row in found.rows}
    assert f"SPAT: {measures.UNSCALED}" in what and f"TRADES: {measures.UNSCALED}" not in what
    over = what[f"SPAT: {measures.OVER}"].mean
    assert over == pytest.approx(what[f"SPAT: {measures.UNSCALED}"].mean - what["SPAT: fast"].mean)
    assert "points that PGD-20 on unscaled cosines misses" in found.because
    drawn = (tmp_path / "out" / "pairs.png").read_bytes()
    assert Image.open(io.BytesIO(drawn)).format == "PNG"
