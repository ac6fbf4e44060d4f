"""Seeds of an experiment in several processes: the same outcome, and nothing measured twice."""

from __future__ import annotations

import importlib
import json
import os
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from torchproof.core.errors import FileError
from torchproof.evaluate.together import held
from torchproof.reproduce import Request
from torchproof.reproduce.ahead import ahead, shared
from torchproof.reproduce.experiment import Partial

PROGRAM = """
import os

from torchproof.reproduce.experiment import Outcome, Request, Row, conclude
from torchproof.reproduce.figures import Figures


class Cell(Figures):
    value: float
    by: int


def experiment(request: Request) -> Outcome:
    request.claim({"seeds of all": str(request.seeds)})
    cells = []
    for seed in request.all_seeds:
        path = request.out / f"{seed}.json"
        if not path.exists():
            if seed == 1 and request.own:
                raise RuntimeError("this process fails")
            Cell(value=seed / 10, by=os.getpid()).write(path)
        cells.append(Cell.read(path))
    return conclude(
        request, name="of a test", paper="none", claim="none", settings={},
        rows=[Row.per_seed("a", [cell.value for cell in cells], 1)],
        judged=("shows", "it does"), picture=b"",
    )
"""


def test_processes_measure_and_one_concludes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In processes that are no copies of this one; one process imports torch for all of them."""
    server: Any = get_context("forkserver")
    server.set_forkserver_preload(["torchproof.reproduce.experiment"])
    monkeypatch.setattr("multiprocessing.get_context", {"spawn": server}.__getitem__)
    (tmp_path / "three_seeds_of_a_test.py").write_text(PROGRAM)
    monkeypatch.syspath_prepend(tmp_path)
    experiment = importlib.import_module("three_seeds_of_a_test").experiment
    out, said = tmp_path / "out", list[str]()
    made = ahead(experiment, Request(out, seeds=3, say=said.append), 2)
    assert made.rows[0].ours == (0.0, 0.1, 0.2)
    assert [line for line in said if "RuntimeError: this process fails" in line]
    by = [json.loads((out / f"{seed}.json").read_text())["by"] for seed in range(3)]
    assert by[1] == os.getpid() not in (by[0], by[2])  # the failed one was made up for
    stored = json.loads((out / "outcome.json").read_text())
    assert stored["seeds"] == [0, 1, 2] and stored["cpu_seconds"] > 0


def test_a_folder_of_another_run_is_refused_before_any_process(tmp_path: Path) -> None:
    (tmp_path / "request.json").write_text("{}")
    with pytest.raises(FileError, match="--resume"):
        ahead(lambda request: pytest.fail("it ran"), Request(tmp_path), os.cpu_count() or 2)


def test_processes_take_the_parts_that_no_other_is_at(tmp_path: Path) -> None:
    done: list[tuple[str, int]] = []

    def one(name: str, seed: int) -> str:
        done.append((name, seed))
        return f"{name}{seed}"

    ahead_ = Request(tmp_path, seeds=2).part(1)
    elsewhere = held(tmp_path / "locks" / "a-seed0")
    with elsewhere, pytest.raises(Partial):
        shared(ahead_, ["a", "b"], one)
    assert done == [("a", 1), ("b", 1), ("b", 0)]
    found = shared(Request(tmp_path, seeds=2), ["a", "b"], one)
    assert found == {"a": ["a0", "a1"], "b": ["b0", "b1"]}
