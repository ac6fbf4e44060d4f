"""Training in two gloo processes: equal to one process, and to itself after a kill."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from torchproof.train import checkpoint, distributed

SCRIPT = Path(__file__).with_name("two_processes.py")


def alone() -> Any:
    """The script as a module of this process."""
    spec = importlib.util.spec_from_file_location("torchproof_two_processes", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the two phases leave: one process alone, two whole, two killed and resumed."""
    path = tmp_path_factory.mktemp("processes")
    for name in ("whole", "cut"):
        (path / name).mkdir()
    script = alone()
    script.exact(path, "exact1-")
    if torch.cuda.is_available():  # which no copy of a process that has used it can use
        subprocess.run([sys.executable, str(SCRIPT), str(path)], check=True, timeout=200)
    else:
        script.main(path)
    kept = checkpoint.read(path / "killed.safetensors")[1]
    assert (kept["epoch"], kept["step"], kept["total"]) == (2, 2, 8)  # in mid-epoch
    return path


def load(path: Path) -> Any:
    return torch.load(path, weights_only=True)


def test_two_processes_equal_one_in_float64(folder: Path) -> None:
    one, two, other = (load(folder / f"exact{n}.pt") for n in ("1-0", "2-0", "2-1"))
    assert one.keys() == {"Standard", "AT", "AWP", "FreeAT", "MMA", "Stream"}
    for method, state in one.items():
        for name, value in state.items():
            assert torch.equal(two[method][name], other[method][name]), (method, name)
            assert torch.allclose(value, two[method][name], rtol=0, atol=1e-10), (method, name)


def outcome(folder: Path) -> dict[str, Any]:
    tensors, facts = checkpoint.read(folder / "checkpoint.safetensors")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for record in [*lines, *facts["records"], facts["sums"]]:
        record["seconds"] = None
    saved = {n: load(folder / n) for n in ("model.test", "last.test", "rank0.pt", "rank1.pt")}
    return {"tensors": tensors, "facts": facts, "lines": lines, **saved}


def test_two_processes_killed_in_mid_epoch_and_resumed(folder: Path) -> None:
    whole, cut = outcome(folder / "whole"), outcome(folder / "cut")
    assert whole["facts"] == cut["facts"] and whole["lines"] == cut["lines"]
    assert [line["epoch"] for line in cut["lines"]] == [1, 2, 3]
    assert any(name.startswith("average/") for name in cut["tensors"])
    for part in ("tensors", "model.test", "last.test", "rank0.pt", "rank1.pt"):
        assert whole[part].keys() == cut[part].keys()
        for name, value in whole[part].items():
            assert torch.equal(value, cut[part][name]), (part, name)
    for name, value in cut["rank0.pt"].items():  # running statistics included
        assert torch.equal(value, cut["rank1.pt"][name]), name


def test_alone_nothing_is_exchanged() -> None:
    assert (distributed.rank(), distributed.world()) == (0, 1)
    t = torch.ones(3)
    distributed.sum_([t])
    assert torch.equal(t, torch.ones(3)) and distributed.total(4, 5) == [4, 5]
    with distributed.joined(torch.device("cpu")):
        assert distributed.world() == 1
