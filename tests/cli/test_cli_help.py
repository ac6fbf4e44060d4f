"""Help that teaches, usage errors, and what becomes of errors and interrupts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from torchproof.cli import main as entry
from torchproof.cli.main import app
from torchproof.core.errors import InputError

COMMANDS = (
    "quickstart", "train", "evaluate", "attack", "transfer", "reproduce", "merge", "hypocrisy",
    "compare", "corrupt", "curve", "list", "train-many", "certify", "verify", "smooth",
    "survey", "check-certificate", "diagnose", "scan", "anomaly", "concepts",
    "adapt", "detect-bench",
)  # fmt: skip
GROUP: Any = typer.main.get_command(app)


def test_the_commands_are_those_of_the_documentation() -> None:
    assert set(GROUP.commands) == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_teaches(name: str) -> None:
    answer = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "200"})
    assert answer.exit_code == 0
    command = GROUP.commands[name]
    assert len(command.help) > 60  # more than its name again
    for parameter in command.params:
        assert parameter.help, f"{name} {parameter.name} is not explained"
        if parameter.name not in ("help", "model", "models", "kind", "name", "shards", "file"):
            assert parameter.opts[0] in answer.output
    if name in ("train", "evaluate", "merge", "reproduce", "attack"):
        assert "xit code 1" in command.help  # what a script has to know


def test_help_begins_with_what_to_do_first(cli: Callable[..., Any]) -> None:
    answer = cli("--help")
    assert answer.code == 0 and "Start with torchproof quickstart" in answer.words
    assert "0 fine, 1 unreliable or a check failed, 2 bad input" in answer.words
    assert all(name in answer.out for name in COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Usage"),
        (["evalute"], "No such command"),
        (["evaluate"], "Missing"),
        (["evaluate", "m"], "--threat"),
        (["evaluate", "m", "--threat", "linf:0.1", "--frob"], "--frob"),
        (["evaluate", "m", "--threat", "linf:0.1", "--n", "0"], "--n"),
        (["evaluate", "m", "--threat", "linf:0.1", "--n", "many"], "--n"),
        (["evaluate", "m", "--threat", "linf:0.1", "--batch-size", "0"], "--batch-size"),
        (["evaluate", "m", "--threat", "linf:0.1", "--seed", "-1"], "--seed"),
        (["evaluate", "m", "--threat", "linf:0.1", "--max-seconds", "nan"], "--max-seconds"),
        (["attack", "m", "--threat", "linf:0.1"], "--out"),
        (["train", "--epochs", "0"], "--epochs"),
        (["train", "--epochs", "few"], "--epochs"),
        (["train", "--seed", "-1"], "--seed"),
        (["merge"], "Missing argument"),
        (["reproduce"], "reproduce --list"),
        (["reproduce", "madry", "--seeds", "0"], "--seeds"),
    ],
)
def test_usage_errors_end_with_code_2(
    cli: Callable[..., Any], arguments: list[str], said: str
) -> None:
    answer = cli(*arguments)
    assert answer.code == 2 and said in answer.words and "Traceback" not in answer.words


def test_an_error_on_purpose_becomes_three_lines(
    cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise InputError("images [0, 255] [/b]", "images in [0, 1]", "divide by [red]255[/red]")

    monkeypatch.setattr(entry, "app", refuse)
    answer = cli()
    assert answer.code == 2 and answer.out == ""
    assert answer.err.splitlines() == [
        "Given: images [0, 255] [/b]",
        "Expected: images in [0, 1]",
        "What to do: divide by [red]255[/red]",
    ]


def test_a_defect_is_not_hidden(cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(entry, "app", broken)
    with pytest.raises(ZeroDivisionError):
        cli()


def test_an_interrupt_says_how_to_go_on(
    cli: Callable[..., Any], trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchproof.cli import evaluate

    def interrupted(*args: object, **more: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluate, "measure", interrupted)
    answer = cli("evaluate", trained, "--threat", "linf:0.1", "--out", tmp_path / "out")
    assert answer.code == 130 and "--resume" in answer.err and "Traceback" not in answer.err
