"""`torchproof evaluate`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from torch import Tensor

from torchproof.cli import options, several, streams
from torchproof.cli.inputs import members_of, network_for, threats_of, within
from torchproof.cli.options import tell
from torchproof.cli.radii import measure_curve
from torchproof.cli.show import progress_bar, show_labels, show_report
from torchproof.core.errors import InputError
from torchproof.data.streamed_set import StreamSet, opened
from torchproof.evaluate import Report, merge, together
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
        str | None,
        typer.Option(help="i/k: every k-th example, of a stream chunk; see `torchproof merge`."),
    ] = None,
    quantised: Annotated[
        bool, typer.Option("--quantised", help="Count only adversarial images of 8 bits.")
    ] = False,
    region: options.Region = None,
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
    chunk: Annotated[
        int, typer.Option(help="Of a stream: examples evaluated at a time.", min=1)
    ] = 2000,
    max_seconds: options.MaxSeconds = None,
) -> None:
    """Measure clean and robust accuracy on the test part of a data set, with a record per example.

    Writes result.json, examples.csv, the adversarial images and report.html. A killed run goes on
    with --resume and ends with the same result; neither batch size nor order nor sharding changes
    any decision. On several GPUs or machines that share `--out`:
    `torchrun --nproc-per-node 4 -m torchproof evaluate ...` (with --first instead of --n); the
    result is that of one process. A stream, such as `--data shards:test-*.tar`, is evaluated chunk
    by chunk, and no images are kept. Exit code 1 says that the result should not be believed, or
    is not complete.
    """
    threats = within(threats_of(threat), region)
    if curve:
        _check_curve(len(threats), target)
    place = several.local(device)
    test = opened(data, data_dir=data_dir, split="test")
    loaded = network_for(test, model, data, str(place))
    asked: dict[str, Any] = dict(
        threat=threats if len(threats) > 1 else threats[0],
        suite=suite if attack is None else members_of(attack, threats), seed=seed, n=n,
        slots=batch_size, quantised=quantised, target=target, name=loaded.name,
        command=options.command_line(),
        verifier=None if verifier is None else Propagation(verifier),
    )  # fmt: skip
    if isinstance(test, StreamSet):
        streams.measure(
            loaded.model, test, place=place, curve=curve, training=_training(model), out=out,
            resume=resume, full=full, chunk=chunk, shard=shard, max_seconds=max_seconds,
            data_name=data, **asked,
        )  # fmt: skip
    one = partial(
        measure, loaded.model, test, save_adversarial=adversarial, data_name=f"{data} (test)",
        model_sha256=loaded.sha256, data_sha256=test.sha256, **asked,
    )  # fmt: skip
    if several.started() > 1:
        _check_alone(shard, curve)
        several.begin(out, _count(test.y, n, target), place, resume)
        report = _together(one, out, full, max_seconds)
    else:
        with progress_bar() as show:
            report = one(out=out, resume=resume, shard=shard, max_seconds=max_seconds,
                         full=full, progress=show)  # fmt: skip
    if curve:
        measure_curve(
            loaded.model, test, threats[0], out, seed=seed, n=n, slots=batch_size, resume=resume,
            shard=shard, quantised=quantised, name=loaded.name, data_name=f"{data} (test)",
            model_sha256=loaded.sha256, data_sha256=test.sha256,
        )  # fmt: skip
    page = render([out], out / "report.html", training=_training(model), classes=test.classes)
    conclude(report, page)


def _training(model: str) -> Path | None:
    """The record of the run that trained the network, where it lies beside it."""
    run = Path(model) / "metrics.jsonl"
    return run if run.is_file() else None


def _together(
    one: Callable[..., Report], out: Path, full: bool, max_seconds: float | None
) -> Report:
    """This process's share of the parts; the report for the process that puts them together, the
    others leave.
    """
    rest, found = together.left(max_seconds), []

    def part(shard: str, folder: Path, full: bool | None) -> Report:
        return one(out=folder, resume=True, shard=shard, max_seconds=rest(), full=full)

    if not together.evaluation(out, part, together.over(rest), full):
        raise several.unfinished(out)

    def whole(parts: Sequence[Path]) -> None:
        found.append(merge(parts, out, command=options.command_line()))

    if not together.finish(out, whole, out / "result.json"):
        raise several.concluded(out)
    return found[0]


def _count(y: Tensor, n: int | None, target: int | None) -> int:
    """The number of examples that are evaluated."""
    first = y if target is None else y[y != target]
    return len(first) if n is None else min(n, len(first))


def _check_alone(shard: str | None, curve: bool) -> None:
    for name, given in (("--shard", shard is not None), ("--curve", curve)):
        if given:
            remedy = f"leave out {name}, or start it without torchrun"
            raise InputError(f"{name} under torchrun", "processes that share one run", remedy)


def conclude(report: Report, page: Path) -> None:
    """Shows the result, what is special about it and where the page is, and exits."""
    show_report(report)
    show_labels(report.result)
    tell(f"report: {page}")
    raise typer.Exit(0 if report.verdict == "ok" else 1)


def _check_curve(threats: int, target: int | None) -> None:
    """Accuracy against eps is about one threat, and about every wrong answer."""
    if threats > 1:
        raise InputError("--curve with several threats", "one threat", "leave out --curve")
    if target is not None:
        raise InputError("--curve with --target", "one of them", "leave out --curve")
