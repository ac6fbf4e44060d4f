"""`torchproof scan`, on a small bank of networks for the bundled digits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from torchproof.backdoor.bank import Bank, Recipe, build_bank
from torchproof.backdoor.rule import Rule
from torchproof.backdoor.titrate import SIGMAS, titrate
from torchproof.cli import options
from torchproof.cli.scan import scan
from torchproof.core.errors import FileError, InputError, ResumeError, UnknownName
from torchproof.core.ranking import auroc
from torchproof.data import load
from torchproof.nn import build, cards

Ask = Callable[..., Result]


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Bank:
    train, test = load("digits", split="train"), load("digits", split="test")
    recipe = Recipe(network="mlp", n=400, epochs=2, batch_size=32, lr=5e-3, steps=10)
    folder = tmp_path_factory.mktemp("bank")
    return build_bank(train, test, folder, clean=5, trojaned=1, recipe=recipe)


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """`ask(network, ...)`: the command in this process, into the folder `out`."""
    app = typer.Typer()
    app.command()(scan)
    monkeypatch.setattr(options.console, "_width", 120)

    def run(*args: object) -> Result:
        given = [*map(str, args), "--out", str(tmp_path / "out")]
        return CliRunner().invoke(app, given)

    return run


def stored(tmp_path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((tmp_path / "out" / "scan.json").read_text())
    return found


def test_without_a_bank(ask: Ask, bank: Bank, tmp_path: Path) -> None:
    entry = bank.entries[0]
    answer = ask(bank.folder / entry.name, "--n", 60)
    assert answer.exit_code == 0, answer.output
    found, curve = (
        stored(tmp_path),
        titrate(bank.network(entry), load("digits", split="test").x[:60]),
    )
    assert found["schema"] == "torchproof.scan/1" and found["verdict"] == "no verdict"
    assert found["titration"]["share"] == list(curve.share) and found["score"] is None
    assert found["titration"]["sigmas"] == list(SIGMAS) and found["titration"]["setting"]["n"] == 60
    words = " ".join(answer.output.split())
    assert "without a bank of clean networks" in words and "no verdict" in words
    assert f"{100 * curve.share[3]:.2f} %" in words and "noise leads to class" in words
    assert found["bank"] is None and "AUROC" not in words
    assert (tmp_path / "out" / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in (tmp_path / "out" / "curve.svg").read_bytes()


@pytest.mark.slow
def test_a_folder_and_then_its_rule(ask: Ask, bank: Bank, tmp_path: Path) -> None:
    subject = bank.folder / bank.entries[1].name
    first = ask(subject, "--bank", bank.folder, "--n", 80)
    assert "calibrated on 6 networks" in first.output, first.output
    from_folder = stored(tmp_path)
    rule = Rule.read(tmp_path / "out" / "rule.json")
    assert rule.setting.n == 80 and len(rule.clean) == 5 and rule.origin.network == "mlp"
    saved = tmp_path / "kept.json"
    (tmp_path / "out" / "rule.json").rename(saved)
    second = ask(subject, "--bank", saved)
    found = stored(tmp_path)
    assert found["score"] == from_folder["score"] and found["threshold"] == rule.threshold
    suspected = found["verdict"] == "backdoor suspected"
    assert second.exit_code == first.exit_code == int(suspected)
    assert suspected == (found["score"] > rule.threshold)
    assert f"score {found['score']:.2f}, threshold {rule.threshold:.2f}" in second.output
    area, (low, high) = auroc(rule.clean, rule.trojaned), found["bank"]["auroc_ci95"]
    assert found["bank"]["auroc"] == area and low <= area <= high and low < high
    assert [f"AUROC {area:.2f}" in caution for caution in found["cautions"]] == [True] * (
        low <= 0.5
    )
    assert (found["bank"]["clean"], found["bank"]["trojaned"]) == (5, 1)
    assert found["bank"]["network"] == "mlp" and from_folder["bank"] == found["bank"]
    assert f"AUROC of {area:.2f} ({low:.2f} to {high:.2f})" in " ".join(second.output.split())
    drawn = (tmp_path / "out" / "curve.svg").read_text()
    assert "clean networks suspected" in drawn  # the ROC of the bank, beside the curve
    with pytest.raises(InputError, match="leave out --n"):
        raise ask(subject, "--bank", saved, "--n", 70).exception or AssertionError


def test_a_bank_is_built_once_and_judges(ask: Ask, bank: Bank, tmp_path: Path) -> None:
    own = build("mlp", channels=1, size=8, classes=10, hidden=(9,), seed=3)
    cards.save(own, tmp_path / "net")
    folder, more = tmp_path / "built", ("--bank-images", 300, "--bank-epochs", 1, "--n", 60)
    given = (tmp_path / "net", "--build-bank", folder, "--clean", 4, "--trojaned", 1, *more)
    first = ask(*given)
    assert first.exit_code in (0, 1) and "clean-00: accuracy" in first.output, first.output
    made = Bank.read(folder)
    assert [e.kind for e in made.entries] == ["clean"] * 4 + ["patch"]
    options_ = {str(cards.read_card(folder / e.name)["options"]) for e in made.entries}
    assert options_ == {str(cards.read_card(tmp_path / "net")["options"])}  # (9,) hidden units
    rule, score = Rule.read(folder / "rule.json"), stored(tmp_path)["score"]
    assert rule.setting.n == 60 and rule.origin.network == "mlp" and len(rule.clean) == 4
    assert score == rule.score(titrate(own.eval(), load("digits", split="test").x[:60]))[0]
    last = folder / "patch-04" / "model.safetensors"
    before, kept = last.stat().st_mtime_ns, (folder / "clean-03").rename(tmp_path / "aside")
    second = ask(*given)  # as after being killed: only what is missing is trained
    assert "clean-03: accuracy" in second.output and "clean-00: accuracy" not in second.output
    assert last.stat().st_mtime_ns == before and Rule.read(folder / "rule.json") == rule
    again = cards.read_card(folder / "clean-03")["sha256"]
    assert again == cards.read_card(kept)["sha256"]
    ask(tmp_path / "net", "--bank", folder / "rule.json")
    assert stored(tmp_path)["score"] == score and stored(tmp_path)["cautions"] == [
        c for c in stored(tmp_path)["cautions"] if "bank is of" not in c
    ]
    other = ask(*given[:-4], "--bank-epochs", 2, "--bank-images", 300, "--n", 60)
    assert isinstance(other.exception, ResumeError)
    (tmp_path / "own.py").write_text(
        "import torch\ndef net():\n    return torch.nn.Sequential(torch.nn.Flatten(), "
        "torch.nn.Linear(64, 10))\n"
    )
    mine = f"{tmp_path / 'own.py'}:net"
    unnamed = ask(mine, "--build-bank", folder)
    assert isinstance(unnamed.exception, InputError) and "--bank-network" in str(unnamed.exception)
    ask(mine, "--bank", folder / "rule.json")
    (caution,) = [c for c in stored(tmp_path)["cautions"] if "bank is of" in c]
    assert "by name it is not known" in caution and "another architecture" not in caution


def test_where_no_answer_changes_no_class_is_named(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "still.py").write_text(
        "import torch\nclass Still(torch.nn.Module):\n    def forward(self, x):\n"
        "        return torch.eye(10)[3].expand(len(x), 10) * 20\n"
    )
    answer = ask(f"{tmp_path / 'still.py'}:Still", "--n", 30)
    words = " ".join(answer.output.split())
    assert answer.exit_code == 0 and "it leads to no class" in words, answer.output
    assert stored(tmp_path)["suspected"] is None and "leads to class" not in words


def test_noise_images_say_that_they_mislead(ask: Ask, bank: Bank, tmp_path: Path) -> None:
    answer = ask(bank.folder / bank.entries[0].name, "--n", 40, "--noise-images")
    assert answer.exit_code == 0 and "mislead" in answer.output
    assert any("mislead" in caution for caution in stored(tmp_path)["cautions"])


@pytest.mark.parametrize(
    ("more", "error", "said"),
    [
        (("--noise-images", "--bank", "rule.json"), InputError, "real images"),
        (("--noise-images", "--build-bank", "bank"), InputError, "real images"),
        (("--build-bank", "bank", "--bank", "rule.json"), InputError, "leave one of them out"),
        (("--build-bank", "bank", "--bank-network", "mpl"), UnknownName, "mlp"),
        (("--bank", "nowhere.json"), FileError, "a rule of a scan"),
        (("--n", 10**6), InputError, "a number from 1 to"),
    ],
)
def test_what_is_refused(
    ask: Ask, bank: Bank, more: tuple[object, ...], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        raise ask(bank.folder / bank.entries[0].name, *more).exception or AssertionError


def test_a_folder_without_networks_is_no_bank(ask: Ask, bank: Bank, tmp_path: Path) -> None:
    with pytest.raises(FileError, match="holds no networks"):
        raise (
            ask(bank.folder / bank.entries[0].name, "--bank", tmp_path).exception or AssertionError
        )
