"""`torchproof evaluate` and `merge`: files, exit codes, unions, shards, limits, resumption."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from torchproof.attack.masks import Centre
from torchproof.attack.regional import Regions
from torchproof.cli.radii import radii
from torchproof.core.threats import parse
from torchproof.evaluate import Result
from torchproof.nn import load_model

FILES = {
    "settings.json", "records.jsonl", "images.bin", "adversarial.npz", "examples.csv",
    "result.json", "report.html",
}  # fmt: skip
KEYS = {
    "schema", "date", "model", "model_sha256", "data", "data_sha256", "n", "threat", "suite",
    "seed", "device", "dtype", "quantised", "target", "clean_accuracy", "robust_accuracy",
    "robust_accuracy_ci95", "certified_accuracy", "standing", "rejection_rate", "attacks",
    "forward", "backward", "seconds",
    "per_robust_example", "probes", "examples", "flags", "labels", "verdict", "versions", "command",
}  # fmt: skip
QUICK = ("--suite", "quick", "--n", 24)
Ask = Callable[..., Any]


@pytest.fixture
def ask(cli: Callable[..., Any], trained: Path, tmp_path: Path) -> Ask:
    """`ask("name", ...)`: evaluates the trained network into the folder `name`."""

    def run(name: str, *options: object, threat: str = "linf:0.06") -> Any:
        given = ("--threat", threat, *QUICK, *options)
        return cli("evaluate", trained, *given, "--out", tmp_path / name)

    return run


@pytest.fixture(scope="module")
def asked(
    cli: Callable[..., Any], trained: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Any]:
    """What `ask("whole")` would leave, an undisturbed evaluation, and what it said."""
    out = tmp_path_factory.mktemp("evaluated") / "whole"
    return out, cli("evaluate", trained, "--threat", "linf:0.06", *QUICK, "--out", out)


@pytest.fixture(scope="module")
def whole(asked: tuple[Path, Any]) -> Path:
    """The folder of it; only to be read."""
    assert asked[1].code == 0
    return asked[0]


@pytest.fixture
def copied(whole: Path, tmp_path: Path) -> Path:
    """A copy of it, `e`."""
    return Path(shutil.copytree(whole, tmp_path / "e"))


def read(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return content


def decided(folder: Path) -> dict[str, Any]:
    """result.json without what may differ between two runs of the same evaluation."""
    content = read(folder)
    for name in ("date", "seconds", "command"):
        content.pop(name)
    for attack in content["attacks"]:
        attack.pop("seconds")
    content["probes"].pop("seconds")
    return content


def test_a_region_is_named(ask: Ask, whole: Path, tmp_path: Path) -> None:
    assert ask("r", "--region", "Centre(4)").code in (0, 1)
    found = read(tmp_path / "r")
    assert found["labels"] == ["changes confined to the region Centre(edge=4)"]
    assert found["robust_accuracy"] > read(whole)["robust_accuracy"]
    with np.load(tmp_path / "r" / "adversarial.npz") as stored:
        changed = (stored["x_adv"] != stored["x"]).any((0, 1))
    assert changed[2:6, 2:6].any() and not changed[:2].any() and not changed[:, 6:].any()
    around = radii(Regions(parse("linf:0.06"), Centre(4)))  # what --curve asks about
    assert {name: str(threat) for name, threat in around.items()}["0.03"] == (
        "linf:0.03 in Centre(edge=4)"
    )
    ask("s", "--region", "Nowhere(4)").refused("a known name", "Centre")


def test_files_and_contract(asked: tuple[Path, Any], trained: Path) -> None:
    out, answer = asked
    assert answer.code == 0, answer.words
    assert {path.name for path in out.iterdir()} == FILES
    result = read(out)
    assert set(result) == KEYS
    assert result["threat"] == {"norm": "linf", "eps": 0.06, "eps_text": "0.06"}
    assert result["n"] == 24 and result["data"] == "digits (test)"
    assert result["model_sha256"] == load_model(str(trained)).sha256
    assert 0 < result["robust_accuracy"] < result["clean_accuracy"] <= 1  # something was broken
    shown = f"{100 * result['robust_accuracy']:.2f} %"
    assert f"robust accuracy {shown}" in answer.words and "verdict: ok" in answer.words
    assert f"report: {out / 'report.html'}" in answer.out
    page = (out / "report.html").read_text()
    assert f"{100 * result['robust_accuracy']:.1f}" in page and "<html" in page


def test_the_stored_command_gives_the_same_result(
    ask: Ask, cli: Callable[..., Any], tmp_path: Path
) -> None:
    import shlex

    ask("e", "--seed", 3)
    words = shlex.split(read(tmp_path / "e")["command"])
    assert words[:2] == ["torchproof", "evaluate"] and words[-2] == "--out"
    assert cli(*words[1:-1], tmp_path / "again").code == 0
    assert decided(tmp_path / "again") == decided(tmp_path / "e")


def test_several_threats_are_a_union(ask: Ask, whole: Path, tmp_path: Path) -> None:
    ask("l2", threat="l2:0.5")
    both = ask("both", "--threat", "l2:0.5")
    assert both.code == 0, both.words
    result = read(tmp_path / "both")
    assert result["threat"]["norm"] == "union" and len(result["threat"]["union"]) == 2
    folders = (tmp_path / "both", whole, tmp_path / "l2")
    single = [read(folder)["robust_accuracy"] for folder in folders[1:]]
    assert result["robust_accuracy"] <= min(single)
    assert len(result["attacks"]) == 4 and "l2:0.5" in both.words and "linf:0.06" in both.words
    rows = [(folder / "examples.csv").read_text() for folder in folders]
    union, one, two = ([",broken," in row for row in text.splitlines()] for text in rows)
    assert union == [a or b for a, b in zip(one, two, strict=True)]


def test_shards_merge_into_the_result_of_one_process(
    ask: Ask, cli: Callable[..., Any], whole: Path, tmp_path: Path
) -> None:
    assert [ask(f"s{i}", "--shard", f"{i}/2").code for i in (0, 1)] == [0, 0]
    merged = cli("merge", tmp_path / "s0", tmp_path / "s1", "--out", tmp_path / "merged")
    assert merged.code == 0, merged.words
    assert decided(tmp_path / "merged") == decided(whole)
    assert (tmp_path / "merged" / "report.html").is_file()
    assert read(tmp_path / "merged")["command"].startswith("torchproof merge ")
    a, b = (np.load(out / "adversarial.npz") for out in (tmp_path / "merged", whole))
    assert np.array_equal(a["x_adv"], b["x_adv"]) and np.array_equal(a["id"], b["id"])
    cli("merge", tmp_path / "s0", "--out", tmp_path / "m").refused("0/2", "every shard once")
    cli("merge", tmp_path / "s0", tmp_path / "s0", "--out", tmp_path / "m").refused("every shard")
    again = ("merge", tmp_path / "s0", tmp_path / "s1", "--out", tmp_path / "merged")
    cli(*again).refused("result.json")
    cli("merge", tmp_path / "none").refused("settings.json")
    cli("merge", tmp_path / "none", "--out", tmp_path / "merged").refused("settings.json")
    cli("merge", whole, "--out", tmp_path / "m").refused("whole evaluation", "nothing to merge")
    ask("s1b", "--shard", "1/2", "--seed", 9)
    mixed = ("merge", tmp_path / "s0", tmp_path / "s1b", "--out", tmp_path / "m")
    cli(*mixed).refused("seed", "one evaluation")


def test_max_seconds_says_what_is_missing_and_resume_finds_it(
    ask: Ask, whole: Path, tmp_path: Path
) -> None:
    cut = ask("cut", "--max-seconds", 1e-9)
    assert cut.code == 1 and "unreliable" in cut.words and "PGD-20-margin on" in cut.words
    flags = {flag["name"]: flag for flag in read(tmp_path / "cut")["flags"]}
    assert flags["unfinished"]["severity"] == "severe"
    assert ask("cut", "--resume").code == 0
    assert decided(tmp_path / "cut") == decided(whole)


def test_batch_size_decides_nothing(ask: Ask, whole: Path, tmp_path: Path) -> None:
    ask("b", "--batch-size", 5)
    a, b = (read(out)["robust_accuracy"] for out in (whole, tmp_path / "b"))
    assert a == b


def test_quantised_images_are_bytes(ask: Ask, tmp_path: Path) -> None:
    answer = ask("q", "--quantised")
    assert answer.code == 0 and read(tmp_path / "q")["quantised"] is True
    labels = read(tmp_path / "q")["labels"]
    assert labels and all(f"label: {label}" in answer.words for label in labels)
    stored = np.load(tmp_path / "q" / "adversarial.npz")
    images = stored["x_adv_uint8"].astype(np.float32) / 255
    assert np.abs(images - stored["x_adv"]).max() < 1e-6
    assert not np.array_equal(stored["x"], stored["x_adv"])
    ask("tiny", "--quantised", threat="linf:1/1000").refused("1/255")


def test_images_that_are_not_kept_are_gone(ask: Ask, tmp_path: Path) -> None:
    assert ask("e", "--no-adversarial").code == 0
    left = {path.name for path in (tmp_path / "e").iterdir()}
    assert left == FILES - {"images.bin", "adversarial.npz"}


def test_an_existing_evaluation_is_kept(ask: Ask, copied: Path, tmp_path: Path) -> None:
    before = (tmp_path / "e" / "result.json").read_bytes()
    ask("e").refused("result.json", "a new folder")
    for option, value, word in (
        ("--seed", 5, "seed"), ("--n", 12, "n:"), ("--suite", "standard", "suite"),
        ("--threat", "l2:0.5", "threats"),
    ):  # fmt: skip
        ask("e", option, value, "--resume").refused(word, "other settings")
    ask("e", "--quantised", "--resume").refused("quantised")
    assert (tmp_path / "e" / "result.json").read_bytes() == before
    assert ask("e", "--resume", "--batch-size", 7).code == 0


def test_a_damaged_ledger_is_refused_but_for_its_last_line(
    ask: Ask, copied: Path, tmp_path: Path
) -> None:
    path, before = copied / "records.jsonl", decided(copied)
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    assert ask("e", "--resume").code == 0 and decided(tmp_path / "e") == before
    path.write_bytes(whole[:40] + b"?" + whole[41:])
    ask("e", "--resume").refused("records.jsonl, damaged in line 1")


@pytest.mark.parametrize("size", [512, 6500])  # no room for the images; for the records
def test_a_full_disk_costs_nothing(
    ask: Ask, whole: Path, tmp_path: Path, full_disk: Callable[[int], Any], size: int
) -> None:
    assert 512 < (whole / "images.bin").stat().st_size < 6500
    assert (whole / "records.jsonl").stat().st_size > 6500
    with full_disk(size):
        ask("cut").refused("could not be written")
    assert not (tmp_path / "cut" / "result.json").exists()
    assert ask("cut", "--resume").code == 0
    assert decided(tmp_path / "cut") == decided(whole)


def test_a_model_that_answers_with_probabilities_is_flagged(
    cli: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "own.py").write_text(
        "import torch\nfrom torch import nn\n\ndef soft():\n    torch.manual_seed(0)\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Softmax(1))\n"
    )
    state = torch.get_rng_state()
    given = ("--threat", "linf:0.1", "--suite", "quick", "--n", 8, "--out", tmp_path / "e")
    answer = cli("evaluate", f"{tmp_path / 'own.py'}:soft", *given)
    assert answer.code == 1 and "probabilities" in answer.words and "unreliable" in answer.words
    assert torch.equal(torch.get_rng_state(), state)
    assert Result.read(tmp_path / "e").verdict == "unreliable"


def test_no_number_is_broken_in_a_narrow_terminal(
    cli: Callable[..., Any], trained: Path, tmp_path: Path
) -> None:
    """A finished evaluation that is resumed tells all of it again."""
    given = ("--threat", "linf:0.06", "--threat", "l2:0.5", *QUICK, "--out", tmp_path / "[/b]")
    for width, more in ((20, ()), (60, ("--resume",)), (200, ("--resume",))):
        answer = cli("evaluate", trained, *given, *more, width=width)
        assert answer.code == 0 and "…" not in answer.out
        lines = answer.out.splitlines()
        assert all(len(line) <= width for line in lines if "report.html" not in line)
        for attack in read(tmp_path / "[/b]")["attacks"]:
            assert f"{attack['forward']:,}" in answer.words
            assert f"{100 * attack['robust_accuracy']:.2f} %" in answer.words
        assert str(tmp_path / "[/b]") in answer.out  # a path is no markup


def test_a_target(ask: Ask, tmp_path: Path) -> None:
    answer = ask("aimed", "--target", 3, threat="linf:0.2")
    assert answer.code == 0, answer.words
    stored = read(tmp_path / "aimed")
    assert stored["target"] == "class 3" and "targeted at class 3" in answer.words
    arrays = np.load(tmp_path / "aimed" / "adversarial.npz")
    assert stored["n"] == len(arrays["y"]) < 24 and 3 not in arrays["y"]
    moved = (arrays["x"] != arrays["x_adv"]).reshape(stored["n"], -1).any(1)
    broken = round(stored["n"] * (stored["clean_accuracy"] - stored["robust_accuracy"]))
    assert 0 < moved.sum() == broken < stored["n"]
    assert "targeted at class 3" in (tmp_path / "aimed" / "report.html").read_text()
    ask("curve", "--target", 3, "--curve").refused("--curve with --target")
    ask("far", "--target", 10).refused("target = 10", "classes 0 to 9")
