"""Commands are imported when they are run, and say of themselves what they are before."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from typing import Any

import pytest
import typer

from torchproof.cli.commands import Commands, Later
from torchproof.cli.main import Torchproof, app


def said(code: str) -> str:
    """What a new process prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@cache
def helped() -> tuple[list[str], float]:
    """A new process that prints the help: what it imported of all that takes long, and its
    processor time.
    """
    code = (
        "import contextlib, io, json, sys, time; sys.argv = ['torchproof', '--help']\n"
        "from torchproof.cli.main import main\n"
        "with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):\n"
        "    main()\n"
        "spent = time.process_time()\n"
        "assert 'quickstart' in out.getvalue() and 'verify' in out.getvalue()\n"
        "slow = [m for m in ('torch', 'numpy', 'torchproof.cli.train') if m in sys.modules]\n"
        "print(json.dumps([slow, spent]))"
    )
    slow, spent = json.loads(said(code))
    return slow, spent


def test_help_waits_for_neither_torch_nor_a_command() -> None:
    assert helped()[0] == []


@pytest.mark.parametrize("name", list(Torchproof.table))
def test_a_command_is_described_as_it_describes_itself(name: str) -> None:
    commands = Commands(Torchproof.table)
    assert Later(name, commands).get_short_help_str(200) == commands[name].get_short_help_str(200)
    assert commands[name] is commands[name] and commands[name].name == name


def test_commands_that_are_none() -> None:
    group: Any = typer.main.get_command(app)
    assert "evalute" not in group.commands and group.get_command(None, "evalute") is None
    with pytest.raises(KeyError):
        group.commands["evalute"]
    assert len(group.commands) == len(Torchproof.table)


def test_the_package_waits_for_nothing_has_everything_and_costs_little() -> None:
    """The function `evaluate` stays what it is whoever imports the subpackage of that name. Beside
    torch, processor time in one process, so that other work on the machine does not count: without
    and with every name.
    """
    code = (
        "import sys, time; clock = time.process_time\n"
        "a = clock(); import torchproof; b = clock()\n"
        "assert 'torch' not in sys.modules and torchproof.__version__\n"
        "c = clock(); import torch; torch_ = clock() - c\n"
        "alone, d = torch_ + b - a, clock()\n"
        "import torchproof.evaluate.certified\n"
        "from torchproof import evaluate\n"
        "from torchproof.evaluate import Propagation, certify, transfer\n"
        "assert callable(evaluate) and evaluate is torchproof.evaluate\n"
        "assert callable(certify) and callable(transfer) and Propagation('ibp')\n"
        "assert torchproof.nn.__name__ == 'torchproof.nn' and not hasattr(torchproof, 'absent')\n"
        "assert {'evaluate', 'parse', 'Linf'} <= set(dir(torchproof))\n"
        "names = {}; exec('from torchproof import *', names)\n"
        "assert set(torchproof.__all__) <= set(names) and names['evaluate'] is evaluate\n"
        "print(alone / torch_, (alone + clock() - d) / torch_)"
    )
    alone, with_every_name = map(float, said(code).split())
    assert alone < 1.2 and with_every_name < 1.6


def test_help_answers_within_two_seconds() -> None:
    """The processor time of the whole process."""
    assert helped()[1] < 2
