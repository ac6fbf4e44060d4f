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
from torchproof.core.errors import FileError, InputError
from torchproof.core.ranking import auroc
from torchproof.data import load

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
    assert suspected == (found["score"] > rule.threshold) and found["cautions"] == []
    assert f"score {found['score']:.2f}, threshold {rule.threshold:.2f}" in second.output
    area, (low, high) = auroc(rule.clean, rule.trojaned), found["bank"]["auroc_ci95"]
    assert found["bank"]["auroc"] == area and low <= area <= high and low < high
    assert (found["bank"]["clean"], found["bank"]["trojaned"]) == (5, 1)
    assert found["bank"]["network"] == "mlp" and from_folder["bank"] == found["bank"]
    assert f"AUROC of {area:.2f} ({low:.2f} to {high:.2f})" in " ".join(second.output.split())
    drawn = (tmp_path / "out" / "curve.svg").read_text()
    assert "clean networks suspected" in drawn  # the ROC of the bank, beside the curve
    with pytest.raises(InputError, match="leave out --n"):
        raise ask(subject, "--bank", saved, "--n", 70).exception or AssertionError


def test_noise_images_say_that_they_mislead(ask: Ask, bank: Bank, tmp_path: Path) -> None:
    answer = ask(bank.folder / bank.entries[0].name, "--n", 40, "--noise-images")
    assert answer.exit_code == 0 and "mislead" in answer.output
    assert any("mislead" in caution for caution in stored(tmp_path)["cautions"])


@pytest.mark.parametrize(
    ("more", "error", "said"),
    [
        (("--noise-images", "--bank", "rule.json"), InputError, "real images"),
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
