"""Every way to name a model, and the errors for names that are none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from torchproof.core.errors import FileError, InputError, ModelError
from torchproof.nn import Network, build, cards, fingerprint, load_model

SOURCE = '''
"""A user's own file: it imports its neighbour, and has a dataclass."""
from __future__ import annotations
from dataclasses import dataclass
import torch
from torch import nn
from beside_the_network import WIDTH

torch.manual_seed(3)


@dataclass
class Settings:
    width: int = WIDTH


def net():
    return nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(64, Settings().width))

made = nn.Flatten()
number = 3

def fails():
    raise RuntimeError("no weights here")

def needs(argument):
    return nn.Flatten()

def wrong():
    return {"a": 1}
'''


@pytest.fixture
def user_file(tmp_path: Path) -> Path:
    (tmp_path / "beside_the_network.py").write_text("WIDTH = 7\n")
    path = tmp_path / "mine.py"
    path.write_text(SOURCE)
    return path


def trained() -> Network:
    model = build("small-cnn", channels=1, size=8, classes=10, batch_norm=True, seed=0)
    model(torch.rand(4, 1, 8, 8))
    return model


def test_a_run_directory_and_a_weights_file(tmp_path: Path) -> None:
    model = trained()
    card = cards.save(model, tmp_path, {"training": {"epochs": 2}})
    for spec in (tmp_path, tmp_path / "model.safetensors"):
        loaded = load_model(str(spec))
        assert loaded.name == "small-cnn" and loaded.card == card
        assert loaded.sha256 == fingerprint(model) == fingerprint(loaded.model)
        assert not loaded.model.training


def test_a_python_file(user_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, path = torch.random.get_rng_state(), list(sys.path)
    loaded = load_model(f"{user_file}:net")
    assert torch.equal(torch.random.get_rng_state(), before)  # though the file seeds
    assert loaded.model(torch.rand(2, 1, 8, 8)).shape == (2, 7)
    assert not loaded.model.training and loaded.name == f"{user_file}:net" and not loaded.card
    assert loaded.sha256 == fingerprint(loaded.model)
    assert sys.path == path
    assert load_model(f"{user_file}:made").model(torch.rand(2, 3)).shape == (2, 3)
    monkeypatch.chdir(user_file.parent)
    assert load_model("mine.py:net").sha256 == loaded.sha256


def test_a_module(user_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(user_file.parent))
    loaded = load_model("mine:net")
    assert loaded.model(torch.rand(2, 1, 8, 8)).shape == (2, 7)
    assert load_model("torch.nn:Flatten").model(torch.rand(2, 3, 4)).shape == (2, 12)


@pytest.mark.parametrize(
    ("name", "error", "word"),
    [
        ("nett", InputError, "it has .*net"),
        ("fails", ModelError, "no weights here"),
        ("needs", ModelError, "without arguments"),
        ("wrong", ModelError, "gives dict"),
        ("number", ModelError, "not callable"),
    ],
)
def test_callables_that_give_no_model(
    user_file: Path, name: str, error: type[Exception], word: str
) -> None:
    with pytest.raises(error, match=word):
        load_model(f"{user_file}:{name}")


def test_specs_that_name_nothing(tmp_path: Path, user_file: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("1 / 0\n")
    cases: list[tuple[str, type[Exception], str]] = [
        (f"{broken}:net", ModelError, "ZeroDivisionError"),
        (f"{tmp_path}/nowhere.py:net", FileError, "check the path"),
        (str(user_file), InputError, r"file\.py:callable"),
        ("no.such.package:net", InputError, "PYTHONPATH"),
        ("resnet", InputError, "run directory"),
        (str(tmp_path / "nowhere"), InputError, "check the path"),
        (str(tmp_path), FileError, r"model\.safetensors"),
        (str(tmp_path / "a.safetensors"), FileError, "check the path"),
        (str(tmp_path / "a.onnx"), FileError, "check the path"),
        (str(tmp_path / "a.pt2"), FileError, "check the path"),
        (str(tmp_path / "a.pt"), FileError, "check the path"),
    ]
    for spec, error, word in cases:
        with pytest.raises(error, match=word):
            load_model(spec)


class Evil:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def test_a_pt_file_is_no_model(tmp_path: Path) -> None:
    path, mark = tmp_path / "their.pt", tmp_path / "ran"
    torch.save(trained().state_dict(), path)
    with pytest.raises(FileError, match="tensors that name no network"):
        load_model(str(path))
    for payload in (trained(), Evil(mark)):
        torch.save(payload, path)
        with pytest.raises(FileError, match="without running code"):
            load_model(str(path))
    assert not mark.exists()


def test_importing_the_package_imports_no_optional_one() -> None:
    code = "import sys, torchproof.nn; print([m for m in ('onnx', 'onnxruntime', 'torchvision') "
    code += "if m in sys.modules])"
    source = str(Path(cards.__file__).parents[2])
    answer = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": source},
    )
    assert answer.stdout.strip() == "[]"
