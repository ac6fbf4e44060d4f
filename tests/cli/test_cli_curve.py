"""`torchproof curve` as the shell sees it."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def test_a_curve_and_more_checks_later(
    cli: Callable[..., Any], trained: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    given = ("curve", trained, "--norm", "linf", "--suite", "quick", "--n", 40, "--out", out)
    answer = cli(*given, "--check", "0.1", width=160)
    stored = json.loads((out / "curve.json").read_text())
    assert answer.code == (0 if stored["verdict"] == "ok" else 1), answer.words
    assert stored["schema"] == "torchproof.curve/1" and stored["command"].startswith("torchproof")
    assert [check["eps"] for check in stored["checks"]] == [0.1]
    with (out / "distances.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    standing = sum(float(row["nearest"]) > 0.1 for row in rows)
    assert stored["checks"][0]["worst_case"] == standing / 40
    assert f"{100 * standing / 40:.2f} %" in answer.words
    assert (out / "curve.png").read_bytes().startswith(b"\x89PNG")
    cli(*given).refused("a new folder")
    more = cli(*given, "--resume", "--check", "0.05", "--check", "0.1", "--max-eps", "0.2")
    again = json.loads((out / "curve.json").read_text())
    assert more.code in (0, 1) and [check["eps"] for check in again["checks"]] == [0.05, 0.1]
    assert again["forward"] == stored["forward"] and again["curve"]["eps"][-1] == 0.2


def test_another_attack_unchecked(cli: Callable[..., Any], trained: Path, tmp_path: Path) -> None:
    given = ("--attack", "DeepFool(targets=2)", "--no-check", "--n", 20, "--out", tmp_path / "o")
    answer = cli("curve", trained, "--norm", "l2", *given, width=160)
    assert answer.code == 0 and "note: unchecked" in answer.words, answer.words
    stored = json.loads((tmp_path / "o" / "curve.json").read_text())
    assert "DeepFool" in stored["attack"] and stored["checks"] == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--norm", "l3"), "norm 'l3'"),
        (("--norm", "linf", "--check", "0"), "greater than 0"),
        (("--norm", "linf", "--max-eps", "much"), "eps 'much'"),
        (("--norm", "linf", "--attack", "DDN"), "L2"),
        (("--norm", "linf", "--attack", "Chain(FMN(), FMN())"), "one attack"),
        (("--norm", "linf", "--suite", "fastt"), "fast"),
        (("--norm", "linf", "--no-check", "--check", "0.1"), "--no-check"),
    ],
)
def test_refused(
    cli: Callable[..., Any], trained: Path, tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    cli("curve", trained, "--out", tmp_path / "o", *options).refused(said)
    assert not (tmp_path / "o").exists()
