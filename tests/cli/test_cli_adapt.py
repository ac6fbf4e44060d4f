"""`torchproof adapt` as the shell sees it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from torchproof.adaptive.binarization import Setting
from torchproof.cli.main import Torchproof

command, suspicion, estimators, sweep = map(
    import_module,
    ("torchproof.cli.adapt", "torchproof.adaptive.suspicion", "torchproof.adaptive.estimators",
     "torchproof.adaptive.sweep"),
)  # fmt: skip

DEFENCE = """
import torch
from torch import nn
from torchproof.adaptive.predictor import Declared, DefendedPredictor
from torchproof.nn import load_model

class Levels(nn.Module):
    def forward(self, x):
        return (x * 4).round() / 4

def defended():
    network = load_model({run!r}).model
    declared = Declared(non_differentiable=True)
    return DefendedPredictor(network, preprocess={{"levels": Levels()}}, declared=declared)
"""


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The command, with problems of few points and short attacks without gradients."""
    monkeypatch.setitem(Torchproof.table, "adapt", "adapt")  # type: ignore[arg-type]
    few = partial(command.debug, setting=Setting(inside=100, random=10))
    monkeypatch.setattr(command, "debug", few)
    monkeypatch.setattr(suspicion, "QUERIES", 100)
    monkeypatch.setattr(estimators, "_STEPS", 60)
    monkeypatch.setattr(sweep, "_QUERIES", 200)
    yield


@pytest.mark.slow
def test_a_defence_in_a_file(cli: Callable[..., Any], trained: Path, tmp_path: Path) -> None:
    file, out = tmp_path / "defence.py", tmp_path / "out"
    file.write_text(DEFENCE.format(run=str(trained)))
    given = ("adapt", f"{file}:defended", "--threat", "linf:0.1", "--n", 8, "--budget", 100,
             "--references", 20, "--out", out)  # fmt: skip
    answer = cli(*given, width=160)
    assert answer.code == 1, answer.words
    record = json.loads((out / "adaptation.json").read_text())
    assert record["schema"] == "torchproof.adaptation/1" and record["suspect"] == "levels"
    assert "zero-gradients" in {flag["name"] for flag in record["flags"]}
    assert record["robust"] <= record["naive"] <= record["clean"]
    assert record["command"].startswith("torchproof adapt") and record["seed"] == 0
    with np.load(out / "worst.npz") as arrays:
        assert arrays["x_adv"].shape == arrays["x"].shape == (8, 1, 8, 8)
        moved = arrays["broken"]
        assert [e["status"] == "broken" for e in record["examples"]] == moved.tolist()
        assert np.abs(arrays["x_adv"] - arrays["x"]).max() <= 0.1 + 1e-5
    for name in ("course.png", "worst.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    for said in ("zero-gradients", "most likely levels", "not a certificate", "worst.npz"):
        assert said in answer.words
    words = answer.words
    for step in record["steps"]:  # what was varied, and what it changed
        assert step["name"] in words and step["axis"] in words
        assert f"{100 * step['robust']:.2f} %" in words
    cli(*given).refused("a new folder")


def test_an_undefended_network_raises_no_severe_flag(
    cli: Callable[..., Any], trained: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    answer = cli("adapt", trained, "--threat", "linf:0.05", "--n", 24, "--budget", 100,
                 "--references", 0, "--no-pictures", "--out", out, width=160)  # fmt: skip
    assert answer.code == 0, answer.words
    assert "no red flag" in answer.words or "warning" in answer.words
    assert sorted(p.name for p in out.iterdir()) == ["adaptation.json", "worst.npz"]


def test_bad_input_is_refused(cli: Callable[..., Any], trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    cli("adapt", trained, "--threat", "linf", "--out", out).refused()
    assert not out.exists()
