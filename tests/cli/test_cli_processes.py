"""Commands in processes of their own: killed at any moment and resumed, and two that train
together.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from torchproof.nn import load_model

EPOCHS = 6
TRAIN = (
    "train", "--model", "small-cnn(widths=(4, 8), hidden=16, dropout=0.2, batch_norm=True)",
    "--method", "AT(steps=1)", "--n", 200, "--epochs", EPOCHS, "--batch-size", 30,
    "--set", "ema=0.9", "--set", "checkpoint_steps=1", "--set", "held_out_steps=2",
)  # fmt: skip
Fork = Callable[..., Any]
Pair = Callable[..., list[Any]]


def killed(process: Any, ready: Callable[[], bool], delay: float) -> None:
    """SIGKILL `delay` seconds after `ready`; the process must not have come to its end."""
    limit = time.monotonic() + 300  # on a machine that has other work
    while not ready():
        assert process.poll() is None, process.end()
        assert time.monotonic() < limit, "the process does not get on"
        time.sleep(0.002)
    time.sleep(delay)
    process.kill()
    said = process.end()
    assert process.poll() == -9, f"it ended before it could be killed: {said}"


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in path.read_text().splitlines()]


def test_train_killed_and_resumed(cli: Callable[..., Any], fork: Fork, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    epochs, delay = (
        random.SystemRandom().randint(0, EPOCHS - 3),
        random.SystemRandom().uniform(0, 0.05),
    )
    process = fork(*TRAIN, "--out", cut)
    metrics = cut / "metrics.jsonl"
    killed(process, lambda: metrics.exists() and metrics.read_text().count("\n") >= epochs, delay)
    assert not (cut / "model.safetensors").exists()
    for out, more in ((whole, ()), (cut, ("--resume",))):
        answer = cli(*TRAIN, "--out", out, *more)
        assert answer.code == 0, answer.err
    when = f"killed {delay:.3f} s after epoch {epochs}"
    for name in ("model", "last"):
        ours, theirs = (load_model(str(out / f"{name}.safetensors")) for out in (cut, whole))
        assert ours.sha256 == theirs.sha256, f"{name}: {when}"
    a, b = lines(metrics), lines(whole / "metrics.jsonl")
    assert [record["epoch"] for record in a] == list(range(1, EPOCHS + 1))
    for record in [*a, *b]:
        record.pop("seconds")
    assert a == b, when


def test_evaluate_killed_and_resumed(
    cli: Callable[..., Any], fork: Fork, trained: Path, tmp_path: Path
) -> None:
    asked = ("evaluate", trained, "--threat", "linf:0.05", "--suite", "quick", "--n", 18)
    asked = (*asked, "--batch-size", 3)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    undisturbed = cli(*asked, "--out", whole)
    assert undisturbed.code == 0, undisturbed.words
    share = random.SystemRandom().uniform(0.02, 0.9)
    wanted = share * (whole / "records.jsonl").stat().st_size
    process, ledger = fork(*asked, "--out", cut), cut / "records.jsonl"
    killed(process, lambda: ledger.exists() and ledger.stat().st_size >= wanted, 0)
    assert not (cut / "result.json").exists()
    again = cli(*asked, "--out", cut, "--resume")
    assert again.code == 0, again.words
    assert result(cut) == result(whole), f"killed after {share:.0%} of the ledger"
    assert (cut / "examples.csv").read_text() == (whole / "examples.csv").read_text()


def result(out: Path) -> dict[str, Any]:
    """result.json without what may differ."""
    content: dict[str, Any] = json.loads((out / "result.json").read_text())
    for name in ("date", "seconds", "command"):
        content.pop(name)
    for attack in content["attacks"]:
        attack.pop("seconds")
    content["probes"].pop("seconds")
    return content


def test_two_processes_train_the_same_network(
    cli: Callable[..., Any], torchrun: Fork, tmp_path: Path
) -> None:
    """Started by torchrun itself; the others are told the same by their environment."""
    given = ("train", "--model", "small-cnn(widths=(4, 8), hidden=16)", "--method", "AT(steps=2)",
             "--first", 120, "--epochs", 2, "--batch-size", 40)  # fmt: skip
    one, two = tmp_path / "one", tmp_path / "two"
    process = torchrun(*given, "--out", two)
    assert cli(*given, "--out", one).code == 0
    said = process.end()
    assert process.poll() == 0, said
    assert said.count("run directory") == 1  # only the first process speaks
    ours, theirs = (load_model(str(out)).model.state_dict() for out in (two, one))
    for name, value in theirs.items():
        assert torch.allclose(ours[name], value, rtol=0, atol=1e-5), name
    for a, b in zip(lines(two / "metrics.jsonl"), lines(one / "metrics.jsonl"), strict=True):
        assert abs(a["loss"] - b["loss"]) < 1e-5 and a["step"] == b["step"]
        assert (a["forward"], a["backward"]) == (b["forward"], b["backward"])


def test_two_processes_evaluate_as_one_does_also_where_one_is_killed(
    cli: Callable[..., Any], pair: Pair, trained: Path, tmp_path: Path
) -> None:
    asked = ("evaluate", trained, "--threat", "linf:0.05", "--attack", "Square(queries=100)",
             "--first", 48)  # fmt: skip
    one, two = tmp_path / "one", tmp_path / "two"
    assert cli(*asked, "--out", one).code in (0, 1)
    processes = pair(*asked, "--out", two)
    limit = time.monotonic() + 300  # on a machine that has other work
    while len(list(two.glob("parts/*/done-whole"))) < 3:
        assert all(p.poll() is None for p in processes), [p.end() for p in processes]
        assert time.monotonic() < limit, "the processes do not get on"
        time.sleep(0.002)
    processes[0].kill()
    processes[1].process.terminate()  # as torchrun ends the other one
    said = "".join(process.end() for process in processes)
    assert [p.poll() for p in processes] == [-9, -15], said
    assert not (two / "result.json").exists()
    kept = len(list(two.glob("parts/*/done-whole")))
    assert 3 <= kept < 16
    processes = pair(*asked, "--out", two, "--resume")
    said = "".join(process.end() for process in processes)
    ours, theirs = result(two), result(one)
    assert ours == theirs, said
    assert (two / "examples.csv").read_text() == (one / "examples.csv").read_text()
    assert said.count("verdict") == 1  # one process speaks


def test_two_processes_share_the_networks_of_a_table(
    cli: Callable[..., Any], pair: Pair, tmp_path: Path
) -> None:
    table = tmp_path / "table.yaml"
    table.write_text(
        "base: {data: digits, model: 'small-cnn(widths=(4, 8), hidden=16)', threat: 'linf:0.1',"
        " n: 100, settings: {epochs: 1, held_out: 0}}\n"
        "rows: {plain: {method: Standard}, AT: {method: AT(steps=1)}}\nseeds: [0, 1]\n"
        "evaluate: {n: 8, suite: quick}\n"
    )
    one, two = tmp_path / "one", tmp_path / "two"
    processes = pair("train-many", table, "--out", two)
    said = [process.end() for process in processes]
    assert [process.poll() for process in processes] == [0, 0], said
    assert cli("train-many", table, "--out", one).code == 0
    found = [json.loads((out / "comparison.json").read_text()) for out in (one, two)]
    for line in (line for each in found for line in each["lines"]):
        for cell in line["cells"].values():
            cell.pop("seconds")
    assert found[0]["lines"] == found[1]["lines"]
    done = [text.count(f"seed {seed}: clean") for text in said for seed in (0, 1)]
    assert sum(done) == 4 and all(sum(done[i : i + 2]) for i in (0, 2))  # each did some
