"""`torchproof compare` and `torchproof corrupt` from the shell's side."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from torchproof.corrupt import CORRUPTIONS

Cli = Callable[..., Any]


def test_compare_prints_and_stores_what_each_library_found(
    cli: Cli, trained: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    given = ["--threat", "linf:0.1", "--attack", "pgd", "--steps", 5, "--n", 40, "--out", out]
    answer = cli("compare", trained, *given, "--libraries", "torchproof", width=120)
    assert answer.code == 0, answer.err
    stored = json.loads((out / "comparison.json").read_text())
    (record,) = stored["libraries"]
    assert stored["n"] == 40 and stored["data"] == "digits (test)" and stored["matched"]
    assert f"{100 * record['robust_accuracy']:.2f}" in answer.words
    assert "pgd(steps=5, length=0.5" in answer.words and "the same settings" in answer.words
    assert str(out / "comparison.json") in answer.out and "torchproof compare" in stored["command"]
    narrow = cli("compare", trained, *given, "--libraries", "torchproof", width=50)
    assert narrow.code == 0 and f"{record['forward']} forward" in narrow.words


def test_compare_lists_every_library_with_a_result_or_a_reason(
    cli: Cli, trained: Path, tmp_path: Path
) -> None:
    given = ["--threat", "l2:0.5", "--attack", "fgsm", "--n", 10, "--out", tmp_path]
    answer = cli("compare", trained, *given, width=200)
    assert answer.code == 0, answer.err
    for record in json.loads((tmp_path / "comparison.json").read_text())["libraries"]:
        assert record["name"] in answer.out
        assert record["status"] == "ok" or record["reason"][:40] in answer.words


def test_a_named_library_without_a_result_is_exit_code_1(
    cli: Cli, trained: Path, tmp_path: Path
) -> None:
    given = ["--threat", "linf:0.1", "--attack", "pgd", "--n", 5, "--steps", 2, "--out", tmp_path]
    answer = cli("compare", trained, *given, "--libraries", "torchproof,autoattack", width=200)
    assert answer.code == 1 and "autoattack" in answer.words


def test_what_compare_refuses(cli: Cli, trained: Path, tmp_path: Path) -> None:
    base = ["compare", trained, "--threat", "linf:0.1", "--n", 5, "--out", tmp_path]
    cli(*base, "--libraries", "folbox").refused("did you mean foolbox")
    cli(*base, "--attack", "pdg").refused("did you mean pgd")
    cli(*base, "--autoattack", tmp_path).refused("the folder that holds the folder autoattack")
    cli("compare", trained, "--threat", "l0:3", "--n", 5).refused("linf, l2 or l1")


def test_corrupt_prints_a_table_and_stores_it(cli: Cli, trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    given = ["--kinds", "fog,zoom-blur", "--strengths", "1,5", "--n", 40, "--out", out, "--sheet"]
    answer = cli("corrupt", trained, *given, width=100)
    assert answer.code == 0, answer.err
    stored = json.loads((out / "corruptions.json").read_text())
    assert [row["kind"] for row in stored["kinds"]] == ["fog", "zoom_blur"] and stored["n"] == 40
    for row in stored["kinds"]:
        assert row["kind"] in answer.out
        assert all(f"{100 * accuracy:.1f}" in answer.words for accuracy in row["accuracies"])
    assert f"mean corruption accuracy {100 * stored['mean_accuracy']:.2f} %" in answer.words
    assert "95 % interval" in answer.words
    with Image.open(out / "corruptions.png") as sheet:
        assert sheet.size == (150 + 3 * 100, 22 + 2 * 100)
    narrow = cli("corrupt", trained, *given, width=40)
    assert narrow.code == 0 and "fog: " in narrow.out


def test_all_corruptions_by_default(cli: Cli, trained: Path, tmp_path: Path) -> None:
    answer = cli("corrupt", trained, "--strengths", "3", "--n", 10, "--out", tmp_path, width=100)
    assert answer.code == 0 and all(kind in answer.out for kind in CORRUPTIONS)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--kinds", "fogg"], "did you mean fog"),
        (["--strengths", "0"], "some of 1, 2, 3, 4, 5"),
        (["--strengths", "low"], "--strengths 1,3,5"),
        (["--kinds", "fog,fog"], "each once"),
    ],
)
def test_what_corrupt_refuses(cli: Cli, trained: Path, given: list[str], said: str) -> None:
    cli("corrupt", trained, *given).refused(said)
