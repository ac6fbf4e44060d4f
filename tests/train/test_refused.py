"""What a run directory refuses: other settings, another run, damaged files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from torchproof.core.errors import FileError, InputError, ResumeError
from torchproof.core.norms import Linf
from torchproof.core.threats import Threat
from torchproof.train import AT, Standard, checkpoint, fit

Make = Callable[..., Any]
THREAT = Threat(Linf(), 0.1)


@pytest.fixture
def train(data: Make, network: Make, settings: Make) -> Make:
    """`train(out, resume=False, **settings)`: a short run in `out`."""

    def run(out: Path, resume: bool = False, **more: Any) -> None:
        chosen = settings(**{"lr": 0.2, "epochs": 3} | more)
        list(fit(network(), data(), AT(THREAT, steps=1), chosen, out=out, resume=resume))

    return run


def test_other_settings_are_named(
    tmp_path: Path, data: Make, network: Make, settings: Make, train: Make
) -> None:
    train(tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(ResumeError) as error:
        train(tmp_path, resume=True, lr=0.3, epochs=5)
    assert "settings.lr was 0.2, is 0.3" in str(error.value)
    assert "settings.epochs was 3, is 5" in str(error.value)
    assert "batch_size" not in str(error.value)
    x, y = data()
    cases: list[tuple[str, dict[str, Any]]] = [
        ("method", {"method": AT(THREAT, steps=2)}),
        ("threat", {"threat": Threat(Linf(), 0.2)}),
        ("data", {"data": (x, y.flip(0))}),
        ("network", {"model": nn.Sequential(nn.Flatten(), nn.Linear(9, 3))}),
        ("info.recipe", {"info": {"recipe": "other"}}),
    ]
    for key, other in cases:
        given = {"model": network(), "data": (x, y), "method": AT(THREAT, steps=1)} | other
        with pytest.raises(ResumeError, match=key):
            fit(**given, settings=settings(lr=0.2, epochs=3), out=tmp_path, resume=True)
    assert before == {p.name: p.read_bytes() for p in tmp_path.iterdir()}


def test_a_folder_with_a_run_is_not_overwritten(tmp_path: Path, train: Make) -> None:
    train(tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(InputError, match="holds a run"):
        train(tmp_path)
    assert before == {p.name: p.read_bytes() for p in tmp_path.iterdir()}


def test_damaged_files_are_refused(tmp_path: Path, train: Make) -> None:
    train(tmp_path)
    path = tmp_path / "checkpoint.safetensors"
    content = path.read_bytes()
    for bad in (content[:100], content[:-10], b"", b"PK\x03\x04 not a checkpoint"):
        path.write_bytes(bad)
        with pytest.raises(FileError, match="checkpoint"):
            train(tmp_path, resume=True)
    checkpoint.write(path, {"model/other": torch.ones(1)}, {"epoch": 0})
    with pytest.raises(FileError, match="does not fit"):
        train(tmp_path, resume=True)
    from safetensors.torch import save_file

    save_file({"weight": torch.ones(2)}, path)
    with pytest.raises(FileError, match="schema"):
        train(tmp_path, resume=True)
    path.write_bytes(content)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(FileError, match=r"config\.json"):
        train(tmp_path, resume=True)


def test_models_with_state_that_is_no_tensor_are_refused(
    tmp_path: Path, data: Make, settings: Make
) -> None:
    class Odd(nn.Linear):
        def get_extra_state(self) -> Any:
            return "words"

    net = nn.Sequential(nn.Flatten(), Odd(9, 3))
    with pytest.raises(ValueError, match="extra state"):
        fit(net, data(), Standard(), settings(lr=0.2, epochs=3), out=tmp_path)
