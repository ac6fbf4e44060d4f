"""`torchproof train`: what it writes, what overrides the recipe, how it is stopped and resumed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from torchproof.cli.train import line
from torchproof.nn import activations_of, build, load_model, save_activations
from torchproof.train import Record

SMALL = ("--model", "mlp(hidden=(8,))", "--method", "Standard", "--n", 120)
FILES = {
    "config.json", "metrics.jsonl", "checkpoint.safetensors", "model.safetensors", "model.json",
    "last.safetensors", "last.json",
}  # fmt: skip


def records(out: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without the one thing that differs from run to run."""
    lines = [json.loads(text) for text in (out / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in record.items() if k != "seconds"} for record in lines]


def test_a_run_directory_is_a_model(cli: Callable[..., Any], trained: Path, tmp_path: Path) -> None:
    assert {path.name for path in trained.iterdir()} == FILES
    assert [record["epoch"] for record in records(trained)] == [1, 2]
    loaded = load_model(str(trained))
    assert loaded.card["data"] == "digits" and loaded.card["classes"] == list("0123456789")
    asked = ("--threat", "linf:0.1", "--suite", "quick", "--n", 10, "--out", tmp_path / "e")
    assert cli("evaluate", trained, *asked).code == 0


def test_options_override_the_recipe(cli: Callable[..., Any], tmp_path: Path) -> None:
    answer = cli(
        "train", "--recipe", "digits-at", *SMALL, "--threat", "l2:0.5", "--epochs", 3,
        "--batch-size", 40, "--lr", 0.02, "--seed", 7, "--augment", "Compose(Crop(1), Flip())",
        "--set", "optimiser=sgd", "--set", "ema=0.9", "--set", "autocast=off", "--set", "clip=none",
        "--set", "held_out=20", "--out", tmp_path / "run",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    settings = config["settings"]
    expected = {"epochs": 3, "batch_size": 40, "lr": 0.02, "seed": 7, "optimiser": "sgd",
                "ema": 0.9, "autocast": "off", "clip": None, "held_out": 20,
                "schedule": "cyclic"}  # fmt: skip
    assert {name: settings[name] for name in expected} == expected
    plan = config["info"]["plan"]
    assert (plan["model"], plan["method"], plan["n"]) == ("mlp(hidden=(8,))", "Standard", 120)
    assert plan["threat"] == "l2:0.5" and "Crop" in config["augment"] and "L2" in config["threat"]
    found = records(tmp_path / "run")
    assert [r["epoch"] for r in found] == [1, 2, 3] and {r["held_out"] for r in found} == {20}
    assert "epoch   3" in answer.out and f"run directory: {tmp_path}" in answer.out


def test_epochs_do_not_wrap_in_80_columns(cli: Callable[..., Any], tmp_path: Path) -> None:
    record = Record(
        epoch=200, step=10**6, loss=12.34567, lr=1.23e-05, held_out=1000, clean=1.0, robust=1.0,
        attack="PGD", best_epoch=1, best_clean=1.0, best_robust=1.0, overfitting=0.0,
        collapsed=False, forward=0, backward=0, seconds=1234.56,
    )  # fmt: skip
    assert len(line(record)) < 80 and "1234.6 s" in line(record)
    assert "robust –" in line(record.model_copy(update={"robust": None}))
    answer = cli("train", *SMALL, "--epochs", 2, "--out", tmp_path / "run")
    epochs = [text for text in answer.out.splitlines() if text.startswith("epoch ")]
    assert len(epochs) == 2 and all(text.endswith(" s") for text in epochs)


def test_max_seconds_ends_with_code_1_and_resume_finishes(
    cli: Callable[..., Any], tmp_path: Path
) -> None:
    given = (*SMALL, "--epochs", 3, "--batch-size", 60)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert cli("train", *given, "--out", whole).code == 0
    stopped = cli("train", *given, "--out", cut, "--max-seconds", 0)
    assert stopped.code == 1 and "0 of 3 epochs, 3 are missing" in stopped.words
    assert "--resume" in stopped.words and records(cut) == []
    again = cli("train", *given, "--out", cut, "--resume")
    assert again.code == 0 and "missing" not in again.words
    assert records(cut) == records(whole)
    assert load_model(str(cut)).sha256 == load_model(str(whole)).sha256


def test_a_finished_run_can_be_resumed(cli: Callable[..., Any], tmp_path: Path) -> None:
    given = ("train", *SMALL, "--epochs", 2, "--out", tmp_path / "run")
    first, before = cli(*given), {}
    for path in (tmp_path / "run").iterdir():
        before[path.name] = path.read_bytes()
    again = cli(*given, "--resume")
    assert first.code == again.code == 0 and "Stopped" not in again.out
    assert "best epoch" in again.out
    for name in ("metrics.jsonl", "checkpoint.safetensors", "model.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == before[name], name


def test_resume_starts_a_run_where_there_is_none(cli: Callable[..., Any], tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert cli("train", *SMALL, "--epochs", 1, "--out", out, "--resume").code == 0
    assert len(records(out)) == 1


def test_other_settings_are_not_resumed(cli: Callable[..., Any], tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert cli("train", *SMALL, "--epochs", 1, "--out", out).code == 0
    kept = (out / "checkpoint.safetensors").read_bytes()
    for option, value, word in (
        ("--epochs", 2, "settings.epochs was 1, is 2"),
        ("--seed", 5, "settings.seed"),
        ("--method", "AT", "method"),
        ("--n", 100, "data"),
        ("--threat", "linf:0.2", "threat"),
        ("--augment", "Flip", "augment"),
    ):
        given = ("train", *SMALL, "--epochs", 1, option, value, "--out", out, "--resume")
        cli(*given).refused(word, "another folder")
    cli("train", *SMALL, "--epochs", 1, "--out", out).refused("holds a run")
    assert (out / "checkpoint.safetensors").read_bytes() == kept


@pytest.mark.parametrize("damage", ["truncated", "foreign"])
def test_a_bad_checkpoint_is_not_resumed(
    cli: Callable[..., Any], tmp_path: Path, damage: str
) -> None:
    out = tmp_path / "run"
    given = ("train", *SMALL, "--epochs", 2, "--out", out)
    assert cli(*given).code == 0
    path = out / "checkpoint.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if damage == "truncated" else b"PK\x03\x04 a zip")
    cli(*given, "--resume").refused("checkpoint.safetensors", "a checkpoint")
    path.write_bytes(whole)
    assert cli(*given, "--resume").code == 0


def test_a_full_disk_costs_nothing(
    cli: Callable[..., Any], tmp_path: Path, full_disk: Callable[[int], Any]
) -> None:
    given = ("train", *SMALL, "--epochs", 2, "--set", "checkpoint_steps=1")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert cli(*given, "--out", whole).code == 0
    with full_disk(4096):
        cli(*given, "--out", cut).refused("checkpoint.safetensors", "free some space")
    assert cli(*given, "--out", cut, "--resume").code == 0
    assert records(cut) == records(whole)
    ours, theirs = (load_model(str(out)).model.state_dict() for out in (cut, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_recipe_from_a_file(cli: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "from torchproof.recipes import Plan\nfrom torchproof.train import Settings\n\n\n"
        "def tiny():\n    return Plan(model='mlp(hidden=(4,))', method='AT(steps=1)', n=60,\n"
        "                threat='l2:0.3', settings=Settings.of(epochs=1, lr=0.01))\n\n\n"
        "def wrong():\n    return 3\n"
    )
    out = tmp_path / "run"
    answer = cli("train", "--recipe", f"{tmp_path / 'own.py'}:tiny", "--lr", 0.02, "--out", out)
    assert answer.code == 0, answer.words
    config = json.loads((out / "config.json").read_text())
    assert config["info"]["plan"]["threat"] == "l2:0.3" and config["settings"]["lr"] == 0.02
    for recipe, word in (("own.py:wrong", "gives int"), ("absent.py:tiny", "existing file")):
        cli("train", "--recipe", tmp_path / recipe, "--out", tmp_path / "no").refused(word)
    assert not (tmp_path / "no").exists()


def test_a_trained_network_teaches(cli: Callable[..., Any], trained: Path, tmp_path: Path) -> None:
    out, hat = tmp_path / "run", "HAT(steps=1)"
    given = ("train", *SMALL, "--method", hat, "--threat", "linf:0.1", "--epochs", 1, "--out", out)
    cli(*given).refused("standard network", "--teacher")
    cli(*given, "--teacher", tmp_path / "none").refused("the teacher", "--teacher")
    assert cli(*given, "--teacher", trained).code == 0
    assert json.loads((out / "config.json").read_text())["info"]["plan"]["teacher"] == str(trained)
    assert 0 <= records(out)[0]["figures"]["standard_fooled"] <= 1


def test_training_starts_from_trained_weights(
    cli: Callable[..., Any], trained: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    plan = json.loads((trained / "config.json").read_text())["info"]["plan"]
    given = ("train", "--method", "Standard", "--n", 100, "--epochs", 1, "--out", out)
    cli(*given, "--start", tmp_path / "none").refused("the start", "--start")
    cli(*given, "--model", "mlp", "--start", trained).refused("the start", "weights of mlp")
    assert cli(*given, "--model", plan["model"], "--start", trained).code == 0
    info = json.loads((out / "config.json").read_text())["info"]
    assert info["plan"]["start"] == str(trained) and len(info["start_sha256"]) == 64


def test_activations_are_taken_over(cli: Callable[..., Any], trained: Path, tmp_path: Path) -> None:
    net = build("resnet", channels=1, size=8, classes=10, width=2, activation="psilu(alpha=3)")
    save_activations(activations_of(net), tmp_path / "gates.safetensors")
    model = "resnet(width=2, blocks=(1, 2), activation='psilu')"
    given = ("train", "--model", model, "--method", "Standard", "--n", 60, "--epochs", 1,
             "--out", tmp_path / "run", "--activations")  # fmt: skip
    cli(*given, tmp_path / "absent.safetensors").refused("absent.safetensors")
    cli(*given, trained).refused("a network without any")
    assert cli(*given, tmp_path / "gates.safetensors").code == 0
    found = activations_of(load_model(str(tmp_path / "run")).model)
    assert {float(t) for t in found.values()} == {float(np.float32(np.log(3)))}
