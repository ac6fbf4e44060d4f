"""What the page on anomalies prints works as printed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer

from torchproof.cli.anomaly import app

PAGE = Path(__file__).parents[2] / "docs" / "anomaly" / "index.md"


def test_the_python_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    space: dict[str, Any] = {}
    exec(compile(code, PAGE.name, "exec", dont_inherit=True), space)
    assert "5 were planted" in capsys.readouterr().out
    assert {p.name for p in tmp_path.iterdir()} == {"net", "heat-maps.png"}
    assert space["detector"].heat_maps(space["case"].test).shape == (80, 8, 8)


def test_its_options_are_there() -> None:
    group: Any = typer.main.get_command(app)
    known = {o for c in group.commands.values() for p in c.params for o in p.opts}
    assert set(re.findall(r"(?<![-|])--[a-z][a-z-]+", PAGE.read_text())) <= known


def test_its_figures_are_those_of_the_results() -> None:
    verdict = (PAGE.parents[1] / "results" / "anomaly" / "table.md").read_text().splitlines()[4]
    table = {
        line.split(" | ")[0].removeprefix("| "): line.strip("| ").split(" | ")[1:]
        for line in PAGE.read_text().splitlines()
        if line.startswith("| ") and line.count("|") == 6
    }
    said = {
        "outlier / normal training error": r"outlier / normal error ([\d.]+ to [\d.]+)",
        "balanced accuracy at the paper's threshold": r"paper's threshold ([\d.]+ to [\d.]+ %)",
        "the same of clean training sets": r"\(([\d.]+ to [\d.]+ %) without outliers",
        "outliers found by early rejection": r"early rejection finds (\d+ %)",
        "AUROC, plain autoencoder, late": r"AUROC ([\d.]+),",
        "oracle removal": r"oracle removal ([-+][\d.]+)",
        "early rejection": r"early rejection ([-+][\d.]+)",
        "ITSR": r"ITSR ([-+][\d.]+)",
    }
    for name, pattern in said.items():
        assert table[name] == re.findall(pattern, verdict), name
