"""`torchproof train --log`, and models that are fetched, with stand-ins for their packages."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

SHORT = ("--model", "mlp(hidden=(8,))", "--method", "Standard", "--n", 60, "--epochs", 2)


def test_every_epoch_is_sent(
    cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Any] = []
    package = SimpleNamespace(
        init=lambda **options: sent.append(options),
        log=lambda numbers, step: sent.append((step, numbers["loss"])),
        finish=lambda: sent.append("finished"),
    )
    monkeypatch.setitem(sys.modules, "wandb", package)
    answer = cli("train", *SHORT, "--log", "wandb:mine", "--out", tmp_path / "run")
    assert answer.code == 0, answer.err
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    losses = [(r["epoch"], r["loss"]) for r in map(json.loads, lines)]
    assert sent == [{"project": "mine", "name": None}, *losses, "finished"]


def test_a_log_that_cannot_be_is_refused_before_the_training(
    cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    for log, said in (("tensorboard", "torchproof[tensorboard]"), ("tensorbord", "tensorboard")):
        answer = cli("train", *SHORT, "--log", log, "--out", tmp_path / "run")
        assert answer.code == 2 and said in answer.words
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("scheme", "package"), [("hub", "huggingface_hub"), ("timm", "timm")])
def test_models_of_packages_that_are_not_there(
    cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str,
    package: str,
) -> None:  # fmt: skip
    monkeypatch.setitem(sys.modules, package, None)
    name = "me/net" if scheme == "hub" else "resnet18"
    given = ("--data", "digits", "--threat", "linf:0.1", "--out", tmp_path)
    answer = cli("evaluate", f"{scheme}:{name}", *given)
    assert answer.code == 2 and "pip install" in answer.words and package in answer.words
