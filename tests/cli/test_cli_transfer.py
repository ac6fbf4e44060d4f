"""`torchproof transfer` prints the matrix that it writes, and that the library gives."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from torchproof.attack.catalogue import mi_fgsm
from torchproof.core.threats import parse
from torchproof.data import load
from torchproof.evaluate import transfer
from torchproof.nn import load_model

Cli = Callable[..., Any]

FIT = """
import torch
from torch import nn
from sklearn.datasets import load_digits


def _fit(make):
    digits = load_digits()
    x = torch.tensor(digits.images / 16.0, dtype=torch.float32)[:, None]
    y = torch.tensor(digits.target)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = make()
    for _ in range(60):
        loss = nn.functional.cross_entropy(net(x), y)
        for p, g in zip(net.parameters(), torch.autograd.grad(loss, list(net.parameters()))):
            p.data -= 0.5 * g
    return net.eval()


def linear(): return _fit(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
def hidden():
    layers = nn.Flatten(), nn.Linear(64, 20), nn.Tanh(), nn.Linear(20, 10)
    return _fit(lambda: nn.Sequential(*layers))
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("own") / "nets.py"
    path.write_text(FIT)
    return path


@pytest.mark.parametrize("width", [40, 80])
def test_what_is_printed_is_what_is_written_and_measured(
    cli: Cli, own: Path, trained: Path, tmp_path: Path, width: int
) -> None:
    names = [f"{own}:linear", f"{own}:hidden", str(trained)]
    given = ("--threat", "linf:0.15", "--n", 40, "--attack", "MI-FGSM(steps=4, length=0.3)")
    answer = cli("transfer", *names, *given, "--out", tmp_path / "t", "--seed", 3, width=width)
    assert answer.code == 0, answer.err
    stored = json.loads((tmp_path / "t" / "transfer.json").read_text())
    assert stored["n"] == 40 and stored["seed"] == 3 and stored["data"] == "digits (test)"
    models = {
        m["name"]: load_model(text).model for m, text in zip(stored["models"], names, strict=True)
    }
    attack = mi_fgsm(parse("linf:0.15"), 4, 0.3)
    found = transfer(models, load("digits", split="test").take(40), attack, seed=3)
    assert [(c["n"], c["fooled"]) for c in stored["cells"]] == [
        (c.n, c.fooled) for row in found.cells for c in row
    ]
    shares = re.findall(r"(\d+\.\d) \[\d+, \d+\] n=(\d+)", answer.words)
    expected = [(f"{100 * c.fooled / c.n:.1f}", str(c.n)) for row in found.cells for c in row]
    assert shares == expected and ("->" in answer.out) is (width == 40)
    assert f"B: {stored['models'][1]['name']}, {found.clean[1]} of 40 correct" in answer.out
    assert any(0 < c.fooled < c.n for row in found.cells for c in row)
    assert f"mean between different models: {100 * stored['mean']:.2f} %" in answer.words


def test_refusals(cli: Cli, own: Path, trained: Path, tmp_path: Path) -> None:
    given = ("--threat", "linf:0.1", "--out", tmp_path / "t")
    cli("transfer", trained, *given).refused("1 model", "two or more")
    cli("transfer", trained, trained, *given).refused("twice")
    pair = (trained, f"{own}:linear")
    cli("transfer", *pair, *given, "--attack", "Chain(PGD, FGSM)").refused("a chain")
    cli("transfer", *pair, *given, "--attack", "PGDD").refused("PGDD")
    cli("transfer", *pair, "--threat", "linf:-1", "--out", tmp_path / "t").refused("eps")
    cli("transfer", trained, tmp_path / "absent", *given).refused("absent")
    assert not (tmp_path / "t").exists()
    (tmp_path / "file").write_text("")
    refused = cli(
        "transfer", *pair, "--threat", "linf:0.1", "--n", 4, "--out", tmp_path / "file" / "t"
    )
    refused.refused("file")
