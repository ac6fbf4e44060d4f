"""`torchproof diagnose` as the shell sees it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


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


def test_what_does_not_apply_is_exit_code_1(
    cli: Callable[..., Any], trained: Path, tmp_path: Path
) -> None:
    given = ("--n-train", 20, "--only", "tail-index", "--out", tmp_path / "out")
    answer = cli("diagnose", trained, *given)
    assert answer.code == 1 and "not measured" in answer.words
    cli("diagnose", trained, "--only", "flat", "--out", tmp_path / "b").refused("flatness")
