"""`torchproof verify`."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import pytest

from torchproof.cli.main import main

pytest.importorskip("onnx", reason="the extra onnx is not installed")


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr("sys.argv", ["torchproof", "verify", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def instances(folder: Path) -> list[dict[str, str]]:
    """Two quick ones of each kind: cartpole holds, lunarlander does not."""
    with (folder / "MANIFEST.csv").open(newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["benchmark"] == "rl_benchmarks"]
    holds = [r for r in rows if "cartpole" in r["onnx"] and r["verdict"] == "unsat"]
    fails = [r for r in rows if "lunarlander" in r["onnx"] and r["verdict"] == "sat"]
    return [*holds[:2], *fails[:2]]


def test_known_verdicts(
    data_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = data_dir / "vnncomp"
    for number, row in enumerate(instances(folder)):
        out = tmp_path / f"{number}.txt"
        code = run(monkeypatch, "--onnx", folder / row["onnx"], "--vnnlib", folder / row["vnnlib"],
                   "--timeout", 30, "--results", out)  # fmt: skip
        said = capsys.readouterr().out
        assert code == 0 and row["verdict"] in said
        lines = out.read_text().splitlines()
        assert lines[0] == row["verdict"]
        assert (len(lines) > 1) == (row["verdict"] == "sat")
        assert ("run again" in said) == (row["verdict"] == "sat")


def test_bad_files(
    data_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = data_dir / "vnncomp"
    row = instances(folder)[0]
    cut = tmp_path / "cut.onnx.gz"
    cut.write_bytes((folder / row["onnx"]).read_bytes()[:200])
    assert run(monkeypatch, "--onnx", cut, "--vnnlib", folder / row["vnnlib"]) == 2
    assert "gzipped .onnx" in " ".join(capsys.readouterr().err.split())
    other = tmp_path / "other.vnnlib.gz"
    text = "(declare-const X_0 Real)(declare-const Y_0 Real)(assert (>= X_0 0))(assert (<= X_0 1))"
    other.write_bytes(gzip.compress((text + "(assert (<= Y_0 0))").encode()))
    assert run(monkeypatch, "--onnx", folder / row["onnx"], "--vnnlib", other) == 2
    assert "property of 1 inputs" in " ".join(capsys.readouterr().err.split())
