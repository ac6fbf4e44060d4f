"""What the commands refuse: exit code 2, what was given, what was expected, what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

Cli = Callable[..., Any]
X = np.random.default_rng(1).random((20, 8, 8), dtype=np.float32)
NAN = X.copy()
NAN[3, 2, 2] = np.nan
Y = np.arange(20) % 10


@pytest.mark.parametrize("command", ["evaluate", "attack", "train"])
@pytest.mark.parametrize(
    ("threat", "word"),
    [
        ("linf:0", "eps = 0.0"),
        ("linf:-1/255", "eps = -0.0039"),
        ("linf:nan", "eps = nan"),
        ("linf:inf", "eps = inf"),
        ("linf:1/0", "'1/0'"),
        ("linf:much", "'much'"),
        ("linf", "NORM:EPS"),
        ("lnf:8/255", "did you mean linf"),
        ("l3:1", "did you mean l0 or l1 or l2"),
    ],
)
def test_threats(
    cli: Cli, trained: Path, tmp_path: Path, command: str, threat: str, word: str
) -> None:
    place = () if command == "train" else (trained,)
    cli(command, *place, "--threat", threat, "--out", tmp_path / "x.npz").refused(word)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--suite", "standrad"], ["suite 'standrad'", "did you mean standard or rand"]),
        (["--data", "digit"], ["data set 'digit'", "did you mean digits"]),
        (["--data", "cifar10"], ["cifar10 without a data folder", "TORCHPROOF_DATA"]),
        (["--data", "cifar10", "--data-dir", "no-such"], ["no-such", "cifar10.npz"]),
        (["--data", "npz:no-such.npz"], ["no-such.npz"]),
        (["--data", "folder:no-such"], ["no-such"]),
        (["--n", "100000"], ["100000", "500"]),
        (["--threat", "linf:0.1"], ["twice"]),
        (["--max-seconds", "0"], ["max_seconds"]),
        *((["--shard", s], [s, "i/k"]) for s in ("2/2", "a/b", "1", "-1/2", "0/0", "0/2/3", "1/")),
        (["--shard", "30/40", "--n", "20"], ["at least one"]),
        *((["--device", d], ["device that is there"]) for d in ("nonsense", "cpu:-3", "meta", "")),
    ],
)
def test_options_of_evaluate(
    cli: Cli, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    options: list[str], words: list[str],
) -> None:  # fmt: skip
    monkeypatch.delenv("TORCHPROOF_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out"
    cli("evaluate", trained, "--threat", "linf:0.1", *options, "--out", out).refused(*words)
    assert not out.exists()


def test_the_reason_of_a_missing_device_is_short(cli: Cli, trained: Path, tmp_path: Path) -> None:
    for device in ("mps", "vulkan", "nonsense"):
        given = ("--threat", "linf:0.1", "--device", device, "--out", tmp_path / "out")
        answer = cli("evaluate", trained, *given)
        answer.refused(device, "try cpu")
        assert len(answer.err) < 400


@pytest.mark.parametrize("command", ["evaluate", "attack", "train"])
@pytest.mark.parametrize(
    ("parts", "word"),
    [
        ({"x": (X * 9).astype(np.int64)}, "int64"),
        ({"x": NAN}, "NaN"),
        ({"x": X * 2}, "[0, 1]"),
        ({"x": X - 0.5}, "[0, 1]"),
        ({"x": X[0]}, "shape (8, 8)"),
        ({"y": Y - 1}, "label -1"),
        ({"y": Y.astype(np.float64)}, "float64"),
        ({"y": Y[:7]}, "one label per image"),
        ({"x": X[:0], "y": Y[:0]}, "empty"),
        ({"y": np.array([object()] * 20)}, "Object arrays"),
    ],
)
def test_data_that_cannot_be_meant(
    cli: Cli, trained: Path, npz: Callable[..., str], tmp_path: Path,
    command: str, parts: dict[str, Any], word: str,
) -> None:  # fmt: skip
    split = "train" if command == "train" else "test"
    data = npz(**{f"{name}_{split}": array for name, array in parts.items()})
    place = () if command == "train" else (trained,)
    out = tmp_path / "out.npz"
    cli(command, *place, "--data", data, "--threat", "linf:0.1", "--out", out).refused(word)
    assert not out.exists()


def test_labels_that_the_model_does_not_know(
    cli: Cli, trained: Path, npz: Callable[..., str], tmp_path: Path
) -> None:
    given = ("--data", npz(y_test=np.arange(20)), "--threat", "linf:0.1")
    cli("evaluate", trained, *given, "--out", tmp_path / "e").refused("label 19", "from 0 to 9")
    cli("attack", trained, *given, "--out", tmp_path / "x.npz").refused("label 19", "from 0 to 9")


def test_a_truncated_data_file(
    cli: Cli, trained: Path, npz: Callable[..., str], tmp_path: Path
) -> None:
    data = npz()
    path = Path(data.partition(":")[2])
    path.write_bytes(path.read_bytes()[:500])
    given = ("--data", data, "--threat", "linf:0.1", "--out", tmp_path / "e")
    cli("evaluate", trained, *given).refused("set.npz")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--method", "TRADES(start=Zero())"], ["random start", "Gaussian"]),
        (["--method", "AT(stps=2)"], ["'stps'", "steps: "]),
        (["--method", "TRADS"], ["'TRADS'", "did you mean TRADES"]),
        (["--method", "AT(steps=-1)"], ["steps = -1"]),
        (["--method", "TRADES(beta=-1)"], ["beta = -1"]),
        (["--method", "TRADES(beta='x')"], ["beta = 'x'"]),
        (["--method", "AT(threat=5)"], ["AT with threat = 5"]),
        (["--method", "AWP(3)"], ["a training method"]),
        (["--method", "AWP(AT, gamma=-1)"], ["gamma = -1"]),
        (["--method", "Uniform()"], ["a training method"]),
        (["--method", ""], ["expression ''"]),
        (["--model", "small-cnnn"], ["did you mean", "small-cnn"]),
        (["--model", "mlp(depth=3)"], ["depth", "hidden"]),
        (["--model", "7"], ["a network"]),
        (["--model", "mlp(std=0)"], ["std=0"]),
        (["--augment", "Flipp"], ["did you mean Flip"]),
        (["--augment", "3"], ["an augmentation"]),
        (["--augment", "Crop(-1)"], ["pad=-1"]),
        (["--recipe", "digit-at"], ["recipe 'digit-at'", "digits-at"]),
        (["--lr", "nan"], ["lr = nan"]),
        (["--lr", "0"], ["lr = 0"]),
        (["--n", "99999"], ["99999", "1297"]),
        (["--set", "ema"], ["NAME=VALUE"]),
        (["--set", "ema=2"], ["ema = 2"]),
        (["--set", "ema=[1"], ["ema=[1"]),
        (["--set", "ema=!!python/object/apply:os.getcwd []"], ["NAME=VALUE"]),
        (["--set", "optimizer=adam"], ["did you mean optimiser"]),
        (["--set", "optimiser=adm"], ["optimiser 'adm'", "adam"]),
        (["--set", "schedule=cosin"], ["did you mean cosine"]),
        (["--set", "held_out=5000"], ["5000 held-out"]),
        (["--seed", str(2**70)], ["seed"]),
    ],
)
def test_options_of_train(cli: Cli, tmp_path: Path, options: list[str], words: list[str]) -> None:
    out = tmp_path / "run"
    cli("train", "--epochs", 1, *options, "--out", out).refused(*words)
    assert not out.exists()


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').mkdir('{}')",
        "open('{}', 'w')",
        "[].__class__.__base__",
        "(lambda: AT())()",
        "AT(steps=__import__('os').mkdir('{}'))",
        "AT(**{{'steps': 3}})",
        "AT(*[3])",
        "AT().prepare",
        "AT() if 1 else AT()",
        "[AT() for _ in '1']",
        "f'{{AT()}}'",
        "9**9**9**9",
        "AT; AT",
        "AT(steps:=3)",
        "(" * 5000,
        "AT(" * 60 + ")" * 60,
        "\x00",
    ],
)
@pytest.mark.parametrize("option", ["--method", "--model", "--augment", "--attack"])
def test_expressions_run_no_code(
    cli: Cli, trained: Path, tmp_path: Path, option: str, text: str
) -> None:
    text, out = text.format(tmp_path / "made"), tmp_path / "x.npz"
    place = ("attack", trained, "--threat", "linf:0.1") if option == "--attack" else ("train",)
    cli(*place, option, text, "--out", out).refused()
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["evaluate", "train", "reproduce", "quickstart", "merge"])
def test_places_that_cannot_be_written(
    cli: Cli, trained: Path, tmp_path: Path, command: str
) -> None:
    (tmp_path / "file").write_text("kept")
    given = {
        "evaluate": (trained, "--threat", "linf:0.1", "--suite", "quick", "--n", 4),
        "train": ("--epochs", 1, "--n", 20, "--model", "mlp(hidden=(4,))"),
        "reproduce": ("madry",),
        "quickstart": (),
        "merge": (tmp_path / "none",),
    }[command]
    for place in ("file", "file/sub"):
        cli(command, *given, "--out", tmp_path / place).refused()
    assert (tmp_path / "file").read_text() == "kept"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
