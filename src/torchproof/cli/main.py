"""The commands, and what becomes of errors: exit code 0 = fine, 1 = the result is unreliable or a
check failed, 2 = bad input.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from typing import ClassVar

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape

from torchproof.cli.commands import Lazily
from torchproof.core.errors import TorchproofError

INTERRUPTED = 130  # what a shell reports for a process that SIGINT ended


class Torchproof(Lazily):
    """Every command, in the order of `--help`."""

    table: ClassVar[Mapping[str, str]] = {
        "quickstart": "quickstart",
        "train": "train",
        "evaluate": "evaluate",
        "curve": "curve",
        "attack": "attack",
        "reproduce": "reproduce",
        "merge": "merge",
        "hypocrisy": "hypocrisy",
        "transfer": "transfer",
        "compare": "compare",
        "corrupt": "corrupt",
        "certify": "certify",
        "verify": "verify",
        "smooth": "smooth",
        "survey": "survey",
        "diagnose": "diagnose",
        "scan": "scan",
        "adapt": "adapt",
        "detect-bench": "detect_bench",
        "concepts": "concepts",
        "train-many": "train_many",
        "check-certificate": "check_certificate",
        "list": "listing",
        "anomaly": "anomaly:app",
    }


app = typer.Typer(
    name="torchproof",
    cls=Torchproof,
    callback=lambda: None,
    help="Attack, train and measure PyTorch models, and leave evidence that a sceptic accepts.",
    epilog="Start with `torchproof quickstart`. Exit codes: 0 fine, 1 unreliable or a check "
    "failed, 2 bad input.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


def main() -> None:
    """The entry point: runs a command and turns torchproof's errors into exit code 2."""
    errors = Console(stderr=True)
    logging.basicConfig(
        level=logging.WARNING,
        format="%(message)s",
        handlers=[RichHandler(console=errors, show_time=False, show_path=False)],
    )
    try:
        app()
    except TorchproofError as error:
        for title, text in zip(
            ("Given", "Expected", "What to do"),
            (error.given, error.expected, error.remedy),
            strict=True,
        ):
            errors.print(f"[bold]{title}:[/bold] {escape(text)}", soft_wrap=True, highlight=False)
        sys.exit(2)
    except SystemExit as ended:  # typer's: an interrupt from the keyboard has become code 130
        if ended.code == INTERRUPTED:
            errors.print(
                "Interrupted. What was finished is kept: run the same command with --resume, if it "
                "has that option."
            )
        raise
