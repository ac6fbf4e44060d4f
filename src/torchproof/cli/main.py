"""The commands, and what becomes of errors: exit code 0 = fine, 1 = the result is unreliable or a
check failed, 2 = bad input.
"""

from __future__ import annotations

import logging
import sys

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape

from torchproof.cli.anomaly import app as anomaly
from torchproof.cli.attack import attack
from torchproof.cli.certify import certify
from torchproof.cli.check_certificate import check_certificate
from torchproof.cli.compare import compare
from torchproof.cli.concepts import concepts
from torchproof.cli.corrupt import corrupt
from torchproof.cli.curve import curve
from torchproof.cli.diagnose import diagnose
from torchproof.cli.evaluate import evaluate
from torchproof.cli.hypocrisy import hypocrisy
from torchproof.cli.listing import listing
from torchproof.cli.merge import merge
from torchproof.cli.quickstart import quickstart
from torchproof.cli.reproduce import reproduce
from torchproof.cli.scan import scan
from torchproof.cli.smooth import smooth
from torchproof.cli.survey import survey
from torchproof.cli.train import train
from torchproof.cli.train_many import train_many
from torchproof.cli.transfer import transfer
from torchproof.cli.verify import verify
from torchproof.core.errors import TorchproofError

INTERRUPTED = 130  # what a shell reports for a process that SIGINT ended

app = typer.Typer(
    name="torchproof",
    help="Attack, train and measure PyTorch models, and leave evidence that a sceptic accepts.",
    epilog="Start with `torchproof quickstart`. Exit codes: 0 fine, 1 unreliable or a check "
    "failed, 2 bad input.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
for command in (
    quickstart, train, evaluate, curve, attack, reproduce, merge, hypocrisy, transfer, compare,
    corrupt, certify, verify, smooth, survey, diagnose, scan, concepts,
):  # fmt: skip
    app.command(command.__name__)(command)
app.command("train-many")(train_many)
app.command("check-certificate")(check_certificate)
app.command("list")(listing)
app.add_typer(anomaly, name="anomaly")


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
