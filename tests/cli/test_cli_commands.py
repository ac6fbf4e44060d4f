"""Commands are imported when they are run, and say of themselves what they are before."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import typer

from torchproof.cli.commands import Commands, Later
from torchproof.cli.main import Torchproof, app


def said(code: str) -> str:
    """What a new process prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_help_waits_for_neither_torch_nor_a_command() -> None:
    code = (
        "import sys, contextlib, io; sys.argv = ['torchproof', '--help']\n"
        "from torchproof.cli.main import main\n"
        "with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):\n"
        "    main()\n"
        "assert 'quickstart' in out.getvalue() and 'verify' in out.getvalue()\n"
        "print([m for m in ('torch', 'numpy', 'torchproof.cli.train') if m in sys.modules])"
    )
    assert said(code) == "[]"


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


def test_the_package_waits_for_nothing_and_has_everything() -> None:
    """The function `evaluate` stays what it is whoever imports the subpackage of that name."""
    code = (
        "import sys, torchproof\n"
        "assert 'torch' not in sys.modules and torchproof.__version__\n"
        "import torchproof.evaluate.certified\n"
        "from torchproof import evaluate\n"
        "from torchproof.evaluate import Propagation, certify, transfer\n"
        "assert callable(evaluate) and evaluate is torchproof.evaluate\n"
        "assert callable(certify) and callable(transfer) and Propagation('ibp')\n"
        "assert torchproof.nn.__name__ == 'torchproof.nn' and not hasattr(torchproof, 'absent')\n"
        "assert {'evaluate', 'parse', 'Linf'} <= set(dir(torchproof))\n"
        "names = {}; exec('from torchproof import *', names)\n"
        "assert set(torchproof.__all__) <= set(names) and names['evaluate'] is evaluate\n"
        "print('well')"
    )
    assert said(code) == "well"


def test_an_import_costs_little_beside_torch() -> None:
    """Processor time in one process, so that other work on the machine does not count."""
    code = (
        "import time; clock = time.process_time\n"
        "a = clock(); import torch; b = clock(); import torchproof; c = clock()\n"
        "[getattr(torchproof, name) for name in torchproof.__all__]; d = clock()\n"
        "print((c - a) / (b - a), (d - a) / (b - a))"
    )
    alone, with_every_name = map(float, said(code).split())
    assert alone < 1.2 and with_every_name < 1.6


def test_help_answers_within_two_seconds() -> None:
    """The processor time of the whole process."""
    code = (
        "import contextlib, io, sys, time; sys.argv = ['torchproof', '--help']\n"
        "from torchproof.cli.main import main\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        "    main()\n"
        "print(time.process_time())"
    )
    assert float(said(code)) < 2
