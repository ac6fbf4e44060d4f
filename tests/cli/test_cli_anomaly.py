"""`torchproof anomaly fit` and `score`, on the bundled digits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from torchproof.anomaly.detector import load
from torchproof.cli import options
from torchproof.cli.anomaly import app
from torchproof.core.errors import FileError, InputError, MissingExtra, UnknownName
from torchproof.data import load as load_data

Ask = Callable[..., Result]
FEW = ("--n", 60, "--classes", "0", "--epochs", 2, "--width", 8, "--batch-size", 16)


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch) -> Ask:
    """`ask("fit", ...)`: the command in this process; errors of ours are raised."""
    monkeypatch.setattr(options.console, "_width", 160)

    def run(*args: object) -> Result:
        result = CliRunner().invoke(app, [str(a) for a in args])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


def answer(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((path / "scores.json").read_text())
    return content


@pytest.mark.slow
@pytest.mark.parametrize("method", ["plain", "adversarial", "itsr", "reject"])
def test_fit_and_score(ask: Ask, tmp_path: Path, method: str) -> None:
    net, out = tmp_path / "net", tmp_path / "scores"
    options_ = (*FEW, *(("--epochs", 25) if method == "itsr" else ()), "--share", 0.1)
    fitted = ask("fit", *options_, "--method", method, "--out", net)
    assert fitted.exit_code == 0, fitted.output
    detector, card = load(net), json.loads((net / "model.json").read_text())
    adversarial = method in ("adversarial", "itsr")
    assert (detector.rule.likelihood is not None) == adversarial
    assert card["training"]["images"] == 48 and card["training"]["method"] == method
    rejected = len(card["training"]["rejected_rows"])
    assert rejected == 5 if method == "reject" else (rejected > 0) == (method == "itsr")
    rows = card["training"]["rejected_rows"]
    zeros = (load_data("digits", split="train").y == 0).nonzero()[:, 0].tolist()
    assert set(rows) <= set(zeros[:60]), "rows of the data set, not of what was trained on"
    record = json.loads((net / "fit.json").read_text())
    assert record["rejected_rows"] == rows and len(record["rejected_weights"]) == rejected
    page = (net / "fit.html").read_text()
    assert f"{rejected} of 48 images" in page and "data:image/png" in page
    assert (net / "rejected.svg").exists() == (rejected > 0)
    scored = ask("score", net, "--normal", "0", "--n", 50, "--out", out)
    assert scored.exit_code == 0 and "AUROC" in scored.output
    content = answer(out)
    assert len(content["suspicion"]) == len(content["error"]) == content["n"] == 50
    assert content["anomaly"] == [s > 0 for s in content["suspicion"]]
    low, high = content["told"]["ci95"]
    assert 0 <= low <= content["told"]["auroc"] <= high <= 1
    assert content["rule"]["error"] == detector.rule.error and len(content["data_sha256"]) == 64
    assert {p.name for p in out.iterdir()} == {
        "heat-maps.png", "heat-maps.svg", "scores.png", "scores.svg", "scores.json", "scores.html",
    }  # fmt: skip
    assert f"{content['told']['auroc']:.3f}" in (out / "scores.html").read_text()


def test_a_baseline(ask: Ask, tmp_path: Path) -> None:
    net, out = tmp_path / "net", tmp_path / "scores"
    assert ask("fit", *FEW, "--method", "lof", "--out", net).exit_code == 0
    scored = ask("score", net, "--normal", "0", "--n", 100, "--out", out)
    told = answer(out)["told"]
    assert told["auroc"] > 0.9 and f"AUROC {told['auroc']:.3f}" in scored.output
    assert told["balanced"] == pytest.approx((told["found"] + told["left_alone"]) / 2)
    assert not (out / "heat-maps.png").exists() and (out / "scores.html").exists()
    record = json.loads((net / "fit.json").read_text())
    assert record["method"] == "lof" and record["images"] == 48


def test_without_labels_nothing_is_told(ask: Ask, tmp_path: Path) -> None:
    net, out = tmp_path / "net", tmp_path / "scores"
    ask("fit", *FEW, "--method", "plain", "--hold-out", 0, "--size", 4, "--out", net)
    assert load(net).shape == (1, 4, 4)
    card = json.loads((net / "model.json").read_text())
    assert card["training"]["thresholds_from"] == "training images"
    scored = ask("score", net, "--n", 20, "--size", 4, "--out", out)
    assert "AUROC" not in scored.output and "told" not in answer(out)
    with pytest.raises(InputError, match=r"\(N, 1, 4, 4\)"):
        ask("score", net, "--n", 20, "--out", out)


def test_a_folder_is_not_overwritten_but_resumed(ask: Ask, tmp_path: Path) -> None:
    given = ("fit", *FEW, "--method", "plain", "--out", tmp_path)
    ask(*given)
    before = (tmp_path / "model.safetensors").read_bytes()
    with pytest.raises(FileError, match="--resume"):
        ask(*given)
    assert ask(*given, "--resume").exit_code == 0
    assert (tmp_path / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize(("first", "second"), [("lof", "plain"), ("plain", "lof")])
def test_a_folder_is_not_shared_by_two_kinds(
    ask: Ask, tmp_path: Path, first: str, second: str
) -> None:
    net = tmp_path / "net"
    ask("fit", *FEW, "--method", first, "--out", net)
    with pytest.raises(FileError, match="another kind"):
        ask("fit", *FEW, "--method", second, "--out", net, "--resume")
    ask("fit", *FEW, "--method", second, "--out", tmp_path / "other")
    for file in (tmp_path / "other").iterdir():
        (net / file.name).write_bytes(file.read_bytes())
    with pytest.raises(FileError, match="both"):
        ask("score", net, "--n", 20, "--out", tmp_path / "scores")


def test_what_cannot_be_meant(ask: Ask, tmp_path: Path) -> None:
    for more, error, word in (
        (("--method", "its"), UnknownName, "itsr"),
        (("--method", "pyod:NoSuchThing"), MissingExtra, "pyod"),
        (("--network", "convolutional"), UnknownName, "network"),
        (("--classes", "eleven"), UnknownName, "class"),
        (("--hold-out", 0.9), InputError, "hold-out"),
        (("--size", 9), InputError, "size of 9"),
    ):
        with pytest.raises(error, match=word):
            ask("fit", *FEW, *more, "--out", tmp_path)
    with pytest.raises(FileError):
        ask("score", tmp_path / "nothing")
