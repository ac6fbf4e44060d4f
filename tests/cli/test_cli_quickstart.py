"""`torchproof quickstart`, with recipes of one epoch and a handful of examples."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from torchproof.cli import quickstart
from torchproof.recipes import RECIPES, Plan
from torchproof.train import Settings

Cli = Callable[..., Any]


@pytest.fixture(scope="module", autouse=True)
def tiny() -> Iterator[None]:
    """The same two names, trained for an epoch; the evaluation of the same suite on 6 examples."""

    def plan(method: str) -> Callable[[], Plan]:
        settings = Settings.of(epochs=1, batch_size=32, lr=0.01, optimiser="adam")
        given = {"model": "mlp(hidden=(16,))", "threat": "linf:0.15", "n": 200}
        return lambda: Plan(data="digits", method=method, settings=settings, **given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quickstart, "EXAMPLES", 6)
        patch.setitem(RECIPES, "digits-at", plan("AT(steps=2)"))
        patch.setitem(RECIPES, "digits-standard", plan("Standard"))
        yield


def test_quickstart(cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "q"
    answer = cli("quickstart", "--out", out, "--seed", 4)
    assert answer.code == 0, answer.words
    assert {path.name for path in out.iterdir()} == {"robust", "standard", "report.html"}
    page, found = (out / "report.html").read_text(), {}
    for name, method in (("robust", "AT("), ("standard", "Standard(")):
        config = json.loads((out / name / "config.json").read_text())
        assert config["method"].startswith(method) and config["settings"]["seed"] == 4
        result = json.loads((out / name / "evaluation" / "result.json").read_text())
        assert result["n"] == 6 and result["suite"] == "thorough" and result["seed"] == 4
        assert result["threat"]["eps"] == 0.15 and len(result["attacks"]) == 10
        found[name] = result
    for result in found.values():
        assert f"{100 * result['robust_accuracy']:.2f} %" in answer.words
        assert result["model"] in page
    assert found["robust"]["model_sha256"] != found["standard"]["model_sha256"]
    assert f"report: {out / 'report.html'}" in answer.out

    cli("quickstart", "--out", out).refused("not empty", "--overwrite")
    assert (out / "report.html").read_text() == page
    assert cli("quickstart", "--out", out, "--overwrite").code == 0
    config = json.loads((out / "robust" / "config.json").read_text())
    assert config["settings"]["seed"] == 0

    stored = json.loads((out / "standard" / "evaluation" / "result.json").read_text())
    words = shlex.split(stored["command"])  # repeats the evaluation
    assert cli(*words[1:-1], tmp_path / "again").code == 0
    again = json.loads((tmp_path / "again" / "result.json").read_text())
    for name in ("clean_accuracy", "robust_accuracy", "model_sha256", "forward", "backward"):
        assert again[name] == stored[name], name


def test_the_recipes_are_those_of_the_table() -> None:
    assert set(quickstart.TWINS.values()) <= set(RECIPES)
