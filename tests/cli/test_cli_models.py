"""What the commands refuse as a model: damaged, foreign, pickled, or of one's own and wrong."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

Cli = Callable[..., Any]


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_model(cli: Cli, trained: Path, tmp_path: Path, share: float) -> None:
    whole = (trained / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: int(share * len(whole))])
    (tmp_path / "model.json").write_bytes((trained / "model.json").read_bytes())
    given = ("--threat", "linf:0.1", "--out", tmp_path / "e")
    cli("evaluate", tmp_path, *given).refused("model.safetensors")


class Trap:
    """Unpickled, it leaves a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


def test_models_that_are_none(cli: Cli, trained: Path, tmp_path: Path) -> None:
    torch.save(Trap(tmp_path / "sprung"), tmp_path / "pickled.pt")
    torch.save({"a": torch.zeros(2)}, tmp_path / "weights.pt")
    torch.save(Trap(tmp_path / "sprung"), tmp_path / "pickled.pt2")
    (tmp_path / "foreign.safetensors").write_bytes(b"PK\x03\x04 something else, long enough")
    (tmp_path / "foreign.onnx").write_bytes(b"something else")
    (tmp_path / "empty").mkdir()
    for name, word in {
        "pickled.pt": "without running code",
        "weights.pt": "1 tensors that name no network",
        "pickled.pt2": "pickled.pt2",
        "foreign.safetensors": "foreign.safetensors",
        "foreign.onnx": "foreign.onnx",
        "empty": "model.safetensors",
        "absent": "a run directory",
        "absent.pt": "absent.pt",
        "absent.onnx": "absent.onnx",
        "absent.py:make": "absent.py",
    }.items():
        given = ("--threat", "linf:0.1", "--out", tmp_path / "e")
        cli("evaluate", tmp_path / name, *given).refused(word)
    assert not (tmp_path / "sprung").exists() and not (tmp_path / "e").exists()
    cli("evaluate", "no.such:model", *given).refused("no.such")


OWN = """
import torch
from torch import nn


def network(width=64, classes=10):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(width, classes))


def three(): return network(classes=3)
def large(): return network(width=3072)
def number(): return 3
def broken(): raise ValueError("a defect of mine")


def nan():
    made = network()
    made[1].weight.data[0, 0] = float("nan")
    return made


def infinite():
    made = network()
    made.append(nn.Threshold(2.0, float("inf")))
    made[1].bias.data[:] = 1
    return made


def image(): return nn.Identity()
"""


@pytest.mark.parametrize("command", ["evaluate", "attack"])
@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("large", "images (1, 8, 8) of digits"),
        ("number", "gives int"),
        ("broken", "a defect of mine"),
        ("nan", "NaN"),
        ("infinite", "infinite logits"),
        ("image", "logits of shape"),
        ("absent", "absent"),
    ],
)
def test_own_models_that_answer_wrongly(
    cli: Cli, tmp_path: Path, command: str, name: str, word: str
) -> None:
    (tmp_path / "own.py").write_text(OWN)
    given = ("--threat", "linf:0.1", "--n", 12, "--out", tmp_path / "out.npz")
    cli(command, f"{tmp_path / 'own.py'}:{name}", *given).refused(word)
    assert not (tmp_path / "out.npz").exists()


def test_a_model_of_fewer_classes(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    given = (f"{tmp_path / 'own.py'}:three", "--threat", "linf:0.1", "--n", 12, "--out")
    cli("evaluate", *given, tmp_path / "e").refused("from 0 to 2")
    cli("attack", *given, tmp_path / "x.npz").refused("from 0 to 2")
