"""`torchproof evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from torchproof.cli import options
from torchproof.cli.inputs import members_of, network_and_data, threats_of
from torchproof.cli.options import tell
from torchproof.cli.radii import measure_curve
from torchproof.cli.show import progress_bar, show_report
from torchproof.core.errors import InputError
from torchproof.evaluate import Report
from torchproof.evaluate import evaluate as measure
from torchproof.evaluate.propagation import Propagation
from torchproof.report import render


def evaluate(
    model: options.Model,
    threat: options.Threats,
    data: options.Data = "digits",
    suite: Annotated[str, typer.Option(help="See `torchproof list suites`.")] = "thorough",
    attack: Annotated[
        str | None,
        typer.Option(help="Instead of a suite, e.g. 'Chain(PGD(50), Square)' for Linf."),
    ] = None,
    full: Annotated[
        bool,
        typer.Option("--full", help="Run the suite's reserve even where no red flag asks for it."),
    ] = False,
    n: options.First = None,
    batch_size: options.Slots = 128,
    out: Annotated[Path, typer.Option(help="Where the ledger and the result go.")] = Path(
        "runs/evaluate"
    ),
    seed: options.Seed = 0,
    device: options.Device = None,
    data_dir: options.DataDir = None,
    resume: options.Resume = False,
    shard: Annotated[
        str | None, typer.Option(help="i/k: every k-th example; see `torchproof merge`.")
    ] = None,
    quantised: Annotated[
        bool, typer.Option("--quantised", help="Count only adversarial images of 8 bits.")
    ] = False,
    target: Annotated[
        int | None,
        typer.Option(help="Count only examples moved to this class; its own are left out.", min=0),
    ] = None,
    adversarial: Annotated[
        bool, typer.Option("--adversarial/--no-adversarial", help="Keep the adversarial images.")
    ] = True,
    verifier: Annotated[
        str | None,
        typer.Option(
            help="Certify first, by a method of `torchproof certify`, and attack the rest."
        ),
    ] = None,
    curve: Annotated[
        bool, typer.Option("--curve", help="Also accuracy against eps: `quick` at other radii.")
    ] = False,
    max_seconds: options.MaxSeconds = None,
) -> None:
    """Measure clean and robust accuracy on the test part of a data set, with a record per example.

    Writes result.json, examples.csv, the adversarial images and report.html. A killed run goes on
    with --resume and ends with the same result; neither batch size nor order nor sharding changes
    any decision. Exit code 1 says that the result should not be believed, or is not complete.
    """
    threats = threats_of(threat)
    if curve:
        _check_curve(len(threats), target)
    loaded, test = network_and_data(model, data, data_dir, device)
    with progress_bar() as show:
        report = measure(
            loaded.model,
            test,
            threats if len(threats) > 1 else threats[0],
            suite if attack is None else members_of(attack, threats),
            seed=seed,
            n=n,
            slots=batch_size,
            out=out,
            resume=resume,
            shard=shard,
            quantised=quantised,
            target=target,
            save_adversarial=adversarial,
            max_seconds=max_seconds,
            progress=show,
            name=loaded.name,
            data_name=f"{data} (test)",
            model_sha256=loaded.sha256,
            data_sha256=test.sha256,
            command=options.command_line(),
            full=full,
            verifier=None if verifier is None else Propagation(verifier),
        )
    if curve:
        measure_curve(
            loaded.model, test, threats[0], out, seed=seed, n=n, slots=batch_size, resume=resume,
            shard=shard, quantised=quantised, name=loaded.name, data_name=f"{data} (test)",
            model_sha256=loaded.sha256, data_sha256=test.sha256,
        )  # fmt: skip
    run = Path(model) / "metrics.jsonl"
    page = render(
        [out],
        out / "report.html",
        training=run if run.is_file() else None,
        classes=test.classes,
    )
    conclude(report, page)


def conclude(report: Report, page: Path) -> None:
    """Shows the result, what is special about it and where the page is, and exits."""
    show_report(report)
    for label in report.labels:
        tell(f"label: {label}")
    tell(f"report: {page}")
    raise typer.Exit(0 if report.verdict == "ok" else 1)


def _check_curve(threats: int, target: int | None) -> None:
    """Accuracy against eps is about one threat, and about every wrong answer."""
    if threats > 1:
        raise InputError("--curve with several threats", "one threat", "leave out --curve")
    if target is not None:
        raise InputError("--curve with --target", "one of them", "leave out --curve")
