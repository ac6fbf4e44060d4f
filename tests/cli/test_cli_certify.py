"""`torchproof certify`, and certificates before attacks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from torchproof.cli.main import main
from torchproof.nn import build, cards


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr("sys.argv", ["torchproof", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.fixture
def network(tmp_path: Path) -> Path:
    model = build("mlp", channels=1, size=8, classes=10, hidden=(12,), seed=0)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(0.5)
    cards.save(model, tmp_path / "model")
    return tmp_path / "model"


def test_certify_writes_its_result(
    network: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    arguments = ("certify", network, "--data", "digits", "--threat", "linf:0.001", "--n", 20)
    assert run(monkeypatch, *arguments, "--out", out) == 0
    result = json.loads((out / "result.json").read_text())
    assert result["schema"] == "torchproof.certificate/1" and result["method"] == "best"
    assert result["threat"] == {"norm": "linf", "eps": 0.001, "eps_text": "0.001"}
    assert len(result["examples"]) == 20
    statuses = {row["status"] for row in result["examples"]}
    assert statuses <= {"certified", "undecided", "wrong"} and "wrong" in statuses
    said = " ".join(capsys.readouterr().out.split())
    assert "certified accuracy" in said and "float64" in said
    assert run(monkeypatch, *arguments, "--out", out) == 2
    assert run(monkeypatch, *arguments, "--out", out, "--resume") == 0
    assert run(monkeypatch, *arguments, "--method", "crwn", "--out", tmp_path / "b") == 2
    assert "did you mean crown" in " ".join(capsys.readouterr().err.split())


def test_proofs_are_checked(
    network: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, proof = tmp_path / "out", tmp_path / "out" / "proof.json"
    arguments = ("certify", network, "--data", "digits", "--threat", "linf:0.001", "--n", 30)
    assert run(monkeypatch, *arguments, "--out", out, "--method", "crown", "--proof") == 0
    result = json.loads((out / "result.json").read_text())
    sure = [row["id"] for row in result["examples"] if row["status"] == "certified"]
    assert sure and [of["id"] for of in json.loads(proof.read_text())["examples"]] == sure
    capsys.readouterr()
    assert run(monkeypatch, "check-certificate", proof) == 0
    assert f"{len(sure)} of {len(sure)} confirmed" in " ".join(capsys.readouterr().out.split())
    content = json.loads(proof.read_text())
    content["set"]["eps"] *= -1  # an empty set, in which anything holds
    proof.write_text(json.dumps(content))
    assert run(monkeypatch, "check-certificate", proof) == 1
    content["set"]["eps"] *= -1
    content["examples"][0]["label"] = (content["examples"][0]["label"] + 1) % 10
    proof.write_text(json.dumps(content))
    assert run(monkeypatch, "check-certificate", proof) == 1
    weights = (out / "proof.npz").read_bytes()
    for damaged in (weights[: len(weights) // 2], b"", b"x" * 99):
        (out / "proof.npz").write_bytes(damaged)
        assert run(monkeypatch, "check-certificate", proof) == 2
    for text in ("{", "[" * 10**5):
        proof.write_text(text)
        assert run(monkeypatch, "check-certificate", proof) == 2
    refused = (*arguments, "--method", "op-norm", "--proof", "--out", tmp_path / "b")
    assert run(monkeypatch, *refused) == 2
    assert "method of a proof" in " ".join(capsys.readouterr().err.split())


def test_evaluate_certifies_first(
    network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    run(monkeypatch, "evaluate", network, "--data", "digits", "--threat", "linf:0.001", "--n", 20,
        "--suite", "quick", "--verifier", "crown", "--out", out)  # fmt: skip
    result = json.loads((out / "result.json").read_text())
    assert result["certified_accuracy"] <= result["robust_accuracy"] <= result["clean_accuracy"]
    assert "Certified accuracy" in (out / "report.html").read_text()
