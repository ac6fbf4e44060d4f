"""`torchproof diagnose` as the shell sees it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from torchproof.nn import cards, load_model


def test_record_pictures_and_page(cli: Callable[..., Any], trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    given = ("diagnose", trained, "--threat", "linf:0.1", "--n", 40, "--n-train", 100, "--only",
             "titration", "--only", "prunability", "--out", out)  # fmt: skip
    answer = cli(*given)
    assert answer.code == 0, answer.words
    stored = json.loads((out / "diagnosis.json").read_text())
    assert stored["schema_version"] == "torchproof.diagnosis/1"
    assert list(stored["parts"]) == ["titration", "prunability"] and stored["refused"] == {}
    assert stored["n"] == 40 and stored["n_train"] == 100
    assert stored["about"]["command"].startswith("torchproof")
    page = (out / "diagnosis.html").read_text()
    for name in ("titration", "prunability"):
        assert stored["parts"][name]["reading"].split(";")[0][1:40] in page.replace("&#39;", "'")
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert b"<svg" in (out / f"{name}.svg").read_bytes()
    assert page.count("data:image/png;base64,") == 2 and "http" not in page.split("<body>")[1]
    cli(*given).refused("a new folder")
    assert cli(*given, "--resume").code == 0


@pytest.mark.slow
def test_layers_and_checkpoints_are_asked_for_by_their_options(
    cli: Callable[..., Any], trained: Path, tmp_path: Path
) -> None:
    folder, out = tmp_path / "steps", tmp_path / "out"
    model = load_model(str(trained)).model
    for step in (20, 3):
        cards.save(model, folder / f"epoch-{step:03}.safetensors")
    cards.save(model, folder / "last.safetensors")  # no step, left out of the folder
    given = ("diagnose", trained, "--n", 6, "--n-train", 120, "--only", "titration")
    answer = cli(*given, "--layers", "net.fc2", "--layers", "net.fc1", "--checkpoints", folder,
                 "--gradient-batch", 2,
                 "--also", "prunings", "--out", out)  # fmt: skip
    assert answer.code == 0, answer.words
    parts = json.loads((out / "diagnosis.json").read_text())["parts"]
    assert list(parts) == ["titration", "prunings", "layers", "tail-track"]
    assert [layer["name"] for layer in parts["layers"]["found"]["chain"]] == ["net.fc1", "net.fc2"]
    assert parts["tail-track"]["found"]["steps"] == [3, 20]
    assert parts["tail-track"]["found"]["tails"][0]["batches"] == 60
    for name in parts:
        assert (out / f"{name}.png").is_file() and (out / f"{name}.svg").is_file()


def test_checkpoints_that_cannot_be_meant_are_refused(
    cli: Callable[..., Any], trained: Path, tmp_path: Path
) -> None:
    given = ("diagnose", trained, "--out", tmp_path / "out", "--checkpoints")
    cli(*given, tmp_path).refused("which holds no file such as epoch-010.safetensors")
    last = trained / "model.safetensors"
    cli(*given, last).refused("a number in its name")
    cli(*given, "a3.safetensors", "--checkpoints", "b3.safetensors").refused("different numbers")
    cli(*given, "a3.safetensors").refused("a3.safetensors")
    cli("diagnose", trained, "--layers", "fc9", "--out", tmp_path / "b").refused("layer 'fc9'")


def test_what_does_not_apply_is_exit_code_1(
    cli: Callable[..., Any], trained: Path, tmp_path: Path
) -> None:
    given = ("--n-train", 20, "--only", "tail-index", "--out", tmp_path / "out")
    answer = cli("diagnose", trained, *given)
    assert answer.code == 1 and "not measured" in answer.words
    cli("diagnose", trained, "--only", "flat", "--out", tmp_path / "b").refused("flatness")
