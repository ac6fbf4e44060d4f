"""`torchproof check-certificate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from zipfile import BadZipFile

import typer

from torchproof.cli.options import console, tell
from torchproof.core.errors import FileError
from torchproof.verify.sound.check import NONSENSE, check


def check_certificate(
    file: Annotated[Path, typer.Argument(help="A proof.json; its weights lie beside it.")],
) -> None:
    """Replay certificates with a small checker that shares no code with the verifier.

    The checker is one file, torchproof/verify/sound/check.py: it needs NumPy alone and also runs by
    itself. Exit code 0: every example is confirmed.
    """
    try:
        verdicts = check(file)
    except (OSError, EOFError, BadZipFile, *NONSENSE) as error:
        raise FileError(
            f"{file}, which cannot be read as a proof ({type(error).__name__}: {error})",
            "a proof.json of `torchproof certify --proof`, with its weights beside it",
            "certify again",
        ) from error
    wrong = [(name, verdict) for name, verdict in verdicts if verdict != "confirmed"]
    console.print(f"[bold]{len(verdicts) - len(wrong)} of {len(verdicts)} confirmed[/bold]")
    for name, verdict in wrong:
        tell(verdict if name is None else f"example {name}: {verdict}")
    raise typer.Exit(1 if wrong or not verdicts else 0)
