"""`torchproof hypocrisy` as the shell sees it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from torchproof.nn import load_model


def test_a_network_that_errs(cli: Callable[..., Any], trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    answer = cli("hypocrisy", trained, "--threat", "linf:0.1", "--n", 60, "--out", out, width=160)
    assert answer.code == 0, answer.words
    stored = json.loads((out / "hypocrisy.json").read_text())
    arrays = np.load(out / "hypocritical.npz")
    model = load_model(str(trained)).model
    with torch.no_grad():
        clean, moved = (
            int((model(torch.tensor(arrays[k])).argmax(1).numpy() == arrays["y"]).sum())
            for k in ("x", "x_hyp")
        )
    assert stored["risks"]["clean_accuracy"]["hits"] == clean
    assert stored["risks"]["verification_accuracy"]["hits"] == moved
    assert f"{100 * moved / 60:.2f} %" in answer.words and "C&W-100" in answer.words
    assert "DOES NOT" not in answer.words and moved > clean
    share = stored["risks"]["adversarial_risk"]
    assert f"adversarial risk: at least {100 * share['value']:.2f} %" in answer.words
    assert "natural risk: at least" not in answer.words
    assert "the adversary that changed answers: PGD(steps=20" in answer.words
    assert "on CrossEntropy()" in answer.words
    again = cli("hypocrisy", trained, "--threat", "linf:0.1", "--n", 60, "--out", out)
    again.refused("a new folder")
    given = ("--threat", "linf:0.1", "--n", 60, "--out", out, "--resume")
    assert cli("hypocrisy", trained, *given).code == 0


def test_an_attack_of_ones_own(cli: Callable[..., Any], trained: Path, tmp_path: Path) -> None:
    given = (
        "--threat",
        "l2:0.5",
        "--n",
        30,
        "--no-images",
        "--every-class",
        "--out",
        tmp_path / "o",
    )
    answer = cli("hypocrisy", trained, "--attack", "PGD(5, objective=Margin())", *given)
    assert answer.code == 0, answer.words
    stored = json.loads((tmp_path / "o" / "hypocrisy.json").read_text())
    assert [a["name"] for a in stored["attacks"]] == ["PGD(5, objective=Margin())"]
    assert "Hypocritical" in stored["attacks"][0]["settings"]
    assert len(stored["classes"]) == 10
    for number, share in enumerate(stored["classes"]):
        assert f"moved to class {number}: " in answer.words
        assert share["n"] < 30 and f", {share['hits']} of {share['n']}" in answer.words
    assert not (tmp_path / "o" / "hypocritical.npz").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--threat", "linf:0"), "greater than 0"),
        (("--threat", "linf"), "NORM:EPS"),
        (("--threat", "linf:0.1", "--attack", "PGDD"), "PGD"),
        (("--threat", "linf:0.1", "--data", "nowhere"), "data set"),
    ],
)
def test_refused(
    cli: Callable[..., Any], trained: Path, tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    cli("hypocrisy", trained, "--out", tmp_path / "o", *options).refused(said)
