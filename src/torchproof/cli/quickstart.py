"""`torchproof quickstart`: the main job of torchproof on the digits that ship with scikit-learn."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Annotated

import torch
import typer

from torchproof import data as sets
from torchproof.cli import options
from torchproof.cli.options import console, percent, tell
from torchproof.cli.radii import measure_curve
from torchproof.cli.show import progress_bar, show_report
from torchproof.cli.train import follow
from torchproof.core.errors import InputError
from torchproof.core.threats import parse as parse_threat
from torchproof.evaluate import Report
from torchproof.evaluate import evaluate as measure
from torchproof.nn import load_model
from torchproof.recipes import prepare, recipe, run
from torchproof.recipes.catalogue import DIGITS_THREAT
from torchproof.report import render

TWINS = {"robust": "digits-at", "standard": "digits-standard"}
EXAMPLES = 200  # of the 500 test digits, so that all of it takes less than three minutes


def quickstart(
    out: Annotated[Path, typer.Option(help="A new or empty folder.")] = Path("quickstart"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier one.")] = False,
    seed: options.Seed = 0,
) -> None:
    """Train a robust network and its standard twin on the bundled digits, measure both, report.

    About two minutes on two cores, nothing is downloaded. Writes robust/ and standard/ (run
    directories with an evaluation in each) and report.html.
    """
    started = time.monotonic()
    torch.set_num_threads(1)  # in networks so small a second thread costs more than it does
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}, which is no folder", "a new folder", "choose another name")
    if out.exists() and any(out.iterdir()):
        if not overwrite:
            raise InputError(f"{out}, which is not empty", "a new folder", "add --overwrite")
        for name in TWINS:
            shutil.rmtree(out / name, ignore_errors=True)
    reports = {name: _twin(out / name, plan, seed) for name, plan in TWINS.items()}
    folders = [out / name / "evaluation" for name in TWINS]
    digits = sets.load("digits", split="test")
    page = render(
        folders, out / "report.html", training=out / "robust", title="Quickstart: robust digits",
        classes=digits.classes,
    )  # fmt: skip
    robust, standard = (reports[name].robust_accuracy for name in TWINS)
    console.print(
        f"robust accuracy at {DIGITS_THREAT}, suite thorough, n = {EXAMPLES}: "
        f"{percent(robust)} after adversarial training, {percent(standard)} for the standard twin"
    )
    tell(f"report: {page}   ({time.monotonic() - started:.0f} s)")
    verdicts = {report.verdict for report in reports.values()}
    raise typer.Exit(0 if verdicts == {"ok"} else 1)


def _twin(folder: Path, name: str, seed: int) -> Report:
    """Trains the recipe `name` into `folder` and evaluates the network it leaves."""
    plan = recipe(name)
    settings = plan.settings.model_copy(update={"seed": seed})
    ready = prepare(plan.model_copy(update={"settings": settings}), None, torch.device("cpu"))
    follow(ready, run(ready, folder), folder)
    loaded, test = load_model(str(folder)), sets.load("digits", split="test")
    threat = parse_threat(DIGITS_THREAT)
    evaluation = folder / "evaluation"
    command = f"torchproof evaluate {folder} --data digits --threat {threat} --n {EXAMPLES}"
    with progress_bar() as show:
        report = measure(
            loaded.model,
            test,
            threat,
            "thorough",
            n=EXAMPLES,
            out=evaluation,
            seed=seed,
            progress=show,
            name=f"{loaded.name}, {name}",
            data_name="digits (test)",
            model_sha256=loaded.sha256,
            data_sha256=test.sha256,
            command=f"{command} --suite thorough --curve --seed {seed} --out {evaluation}",
        )
    measure_curve(
        loaded.model, test, threat, evaluation, n=EXAMPLES, seed=seed,
        name=f"{loaded.name}, {name}", data_name="digits (test)",
        model_sha256=loaded.sha256, data_sha256=test.sha256,
    )  # fmt: skip
    show_report(report)
    return report
