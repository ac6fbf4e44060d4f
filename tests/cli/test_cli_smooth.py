"""`torchproof smooth` as the shell sees it."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import typer

from torchproof.cli.main import app

PAGE = Path(__file__).parents[2] / "docs" / "certification" / "smoothing.md"


def test_certificates_of_a_trained_model(
    cli: Callable[..., Any], trained: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    given = ("smooth", trained, "--sigma", 0.25, "--samples", 500, "--first", 8, "--out", out)
    answer = cli(*given)
    assert answer.code == 0, answer.words
    stored = json.loads((out / "result.json").read_text())
    assert stored["schema"] == "torchproof.smoothing/1" and stored["images"] == 8
    assert stored["noise"] == "Gaussian(sigma=0.25)" and stored["command"].startswith("torchproof")
    records = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
    right = [r for r in records if r["prediction"] == r["label"]]
    assert len(records) == 8 and len(right) > 2
    assert stored["acr"] == pytest.approx(sum(r["radius"] for r in right) / 8)
    assert f"average certified radius {stored['acr']:.3f}" in answer.words
    assert stored["curve"][0]["certified_accuracy"] == len(right) / 8
    assert stored["abstained"] == sum(r["prediction"] == -1 for r in records) / 8
    assert [row["radius"] for row in stored["curve"]] == [0.0, 0.25, 0.5]  # at most 0.55
    assert "about the smoothed classifier" in answer.words and "probability 0.999" in answer.words
    cli(*given).refused("a new folder")
    again = cli(*given, "--resume", "--by", "renyi", "--radius", 0.1, "--batch-size", 100)
    other = json.loads((out / "result.json").read_text())
    assert again.code == 0 and other["by"] == "renyi" and other["acr"] < stored["acr"]
    assert [row["radius"] for row in other["curve"]] == [0.1]
    cli(*given, "--resume", "--alpha", 0.01).refused("alpha: 0.01 now, 0.001 stored")


def test_other_noise(cli: Callable[..., Any], trained: Path, tmp_path: Path) -> None:
    given = ("--noise", "uniform", "--samples", 50, "--n0", 10, "--first", 2, "--runner-up")
    answer = cli("smooth", trained, "--sigma", 0.1, *given, "--out", tmp_path / "o")
    assert answer.code == 0 and "l1 radius" in answer.words and "Uniform(sigma=0.1)" in answer.words


def test_a_negative_radius_is_refused_before_the_work(cli: Callable[..., Any]) -> None:
    answer = cli("smooth", "model", "--sigma", 0.1, "--radius", "-1")
    assert answer.code == 2 and "--radius" in answer.words


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--sigma", "0"), "sigma = 0"),
        (("--sigma", "0.1", "--noise", "gauss"), "gaussian"),
        (("--sigma", "0.1", "--alpha", "2"), "alpha = 2"),
        (("--sigma", "0.1", "--by", "reny"), "renyi"),
        (("--sigma", "0.1", "--noise", "uniform", "--by", "renyi"), "uniform noise"),
    ],
)
def test_refused(
    cli: Callable[..., Any], trained: Path, tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    cli("smooth", trained, "--out", tmp_path / "o", *options).refused(said)
    assert not (tmp_path / "o").exists()


def test_the_page_names_real_options_and_its_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = re.split(r"^```", PAGE.read_text(encoding="utf-8"), flags=re.M)[1::2]
    blocks = [part.split("\n", 1) for part in parts]
    command: Any = typer.main.get_command(app)
    known = {o for p in command.commands["smooth"].params for o in p.opts}
    shown = [shlex.split(c, comments=True) for mark, c in blocks if not mark.strip()]
    assert shown and all({w for w in s if w.startswith("--")} <= known for s in shown)
    monkeypatch.chdir(tmp_path)
    code = "".join(c for mark, c in blocks if mark.strip() == "python")
    space: dict[str, Any] = {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        exec(compile(code, "smoothing.md", "exec", dont_inherit=True), space)
    assert "ok" in capsys.readouterr().out and len(space["run"].records) == 20
