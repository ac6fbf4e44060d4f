"""What the page on concepts prints works as printed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import typer

from torchproof.cli.concepts import concepts

PAGE = Path(__file__).parents[2] / "docs" / "concept" / "index.md"


def test_the_python_block(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    space: dict[str, Any] = {}
    exec(compile(code, PAGE.name, "exec", dont_inherit=True), space)
    said = capsys.readouterr().out
    assert "A-CAV: recall" in said and "class 8: TCAV" in said
    test, found = space["test"], space["found"]
    assert found.ways[0].spread.auroc > 0.9, "threes are found in a network of digits"
    shown = test.y[torch.tensor([one.row for one in found.most])]
    assert int((shown == 3).sum()) >= 6 and space["grown"].shape == (len(test), 1)


def test_its_options_are_there() -> None:
    app = typer.Typer()
    app.command()(concepts)
    known = {name for p in typer.main.get_command(app).params for name in p.opts}
    assert set(re.findall(r"(?<![-|])--[a-z][a-z-]+", PAGE.read_text())) <= known


def test_its_figures_are_those_of_the_results() -> None:
    table = (PAGE.parents[1] / "results" / "a-cav" / "table.md").read_text()
    verdict = table.splitlines()[4]
    lines = PAGE.read_text().splitlines()
    told = [line for line in lines if line.startswith(("| CAV, ", "| A-CAV, eps 0.05", "| Gram"))]
    figures = re.findall(r"([\d.]+) ± ([\d.]+) % \| ([\d.]+) % \| ([\d.]+)", "\n".join(told))
    assert len(figures) == 8, "four ways in two layers"
    for recall, wide, spent, area in figures:
        assert f"recall {recall}% ± {wide}%, false positives {spent}%, AUROC {area}" in verdict
