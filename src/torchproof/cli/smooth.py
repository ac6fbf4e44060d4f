"""`torchproof smooth`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from torchproof.cli import options
from torchproof.cli.inputs import network_and_data
from torchproof.cli.options import console, percent, tell
from torchproof.core.files import write
from torchproof.verify.smoothing import Log, Smoothing, SmoothingRun
from torchproof.verify.smoothing.summary import USUAL
from torchproof.verify.smoothing.theories import NEYMAN_PEARSON

SCHEMA, RESULT = "torchproof.smoothing/1", "result.json"


def smooth(
    model: options.Model,
    sigma: Annotated[
        float, typer.Option(help="Standard deviation of the noise, where pixels are in [0, 1].")
    ],
    data: options.Data = "digits",
    noise: Annotated[
        str, typer.Option(help="gaussian (certifies l2), laplace or uniform (l1).")
    ] = "gaussian",
    n0: Annotated[int, typer.Option("--n0", help="Samples that select the class.", min=1)] = 100,
    samples: Annotated[
        int, typer.Option(help="Fresh samples that bound its probability.", min=1)
    ] = 100_000,
    alpha: Annotated[
        float, typer.Option(help="How probable a wrong certificate may be, per image.")
    ] = 0.001,
    runner_up: Annotated[
        bool,
        typer.Option("--runner-up", help="Bound the second class too, each with alpha / 2."),
    ] = False,
    by: Annotated[
        str,
        typer.Option(
            help="What turns probabilities into radii: neyman-pearson, renyi, hockey-stick, "
            "differential-privacy, kullback-leibler, hellinger, chi-square, total-variation."
        ),
    ] = NEYMAN_PEARSON,
    radius: Annotated[
        list[float] | None, typer.Option(help="A radius of the table; several may be given.", min=0)
    ] = None,
    first: options.First = None,
    batch_size: Annotated[
        int, typer.Option("--batch-size", help="Noisy images per model call.", min=1)
    ] = 256,
    out: Annotated[Path, typer.Option(help="Where the records and the result go.")] = Path(
        "runs/smooth"
    ),
    seed: options.Seed = 0,
    device: options.Device = None,
    data_dir: options.DataDir = None,
    resume: options.Resume = False,
) -> None:
    """Certify the smoothed classifier on the test part of a data set, by CERTIFY of Cohen et al.

    Certified is not the network, but the classifier that answers what the network most often
    answers under the noise; each image's certificate holds with probability 1 - alpha. Writes a
    line per image (records.jsonl) and result.json. A killed run goes on with --resume.
    """
    smoothing = Smoothing(sigma, noise, n0, samples, alpha, runner_up)
    smoothing.kernel.radius(0.5, 0.5, by)  # a theory that does not fit is refused before the work
    loaded, test = network_and_data(model, data, data_dir, device, first)
    with _bar() as show:
        run = smoothing(
            loaded.model, test.x, test.y, seed=seed, out=out, resume=resume, slots=batch_size,
            progress=show,
        )  # fmt: skip
    log = run.log(by)
    radii = sorted(set(radius)) if radius else _usual(smoothing, log)
    about = {
        "schema": SCHEMA,
        "model": loaded.name,
        "model_sha256": loaded.sha256,
        "data": f"{data} (test)",
        "data_sha256": test.sha256,
        "command": options.command_line(),
        "seed": seed,
        "by": by,
    }
    result = about | _result(run, log, radii)
    write(out / RESULT, (json.dumps(result, indent=1) + "\n").encode())
    _show(result)
    tell(f"result: {out / RESULT}")


@contextmanager
def _bar() -> Iterator[Callable[[int, int], None]]:
    columns = (TextColumn("images"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("images", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _usual(smoothing: Smoothing, log: Log) -> list[float]:
    """The radii of USUAL that any image could reach."""
    largest = max(smoothing.largest, float(log.radii.max()))
    return [r for r in USUAL[smoothing.kernel.norm] if r <= largest]


def _result(run: SmoothingRun, log: Log, radii: list[float]) -> dict[str, Any]:
    smoothing = run.smoothing
    return run.settings() | {
        "norm": smoothing.kernel.norm,
        "largest_radius": smoothing.largest,
        "images": len(log),
        "acr": log.acr,
        "abstained": log.abstained,
        "curve": log.curve(radii),
        "seconds": float(log.seconds.sum()),
    }


def _show(result: dict[str, Any]) -> None:
    norm = result["norm"]
    console.print(
        f"{escape(result['model'])} on {escape(result['data'])}, {result['images']} images, "
        f"smoothed with {result['noise']}"
    )
    table = Table()
    for name in (f"{norm} radius", "certified accuracy", "95 % interval"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in result["curve"]:
        low, high = row["certified_accuracy_ci95"]
        shown = percent(row["certified_accuracy"]), f"{percent(low)} to {percent(high)}"
        table.add_row(f"{row['radius']:g}", *shown)
    console.print(table)
    console.print(
        f"[bold]average certified radius {result['acr']:.3f}[/bold] ({norm}, {result['by']}; "
        f"at most {result['largest_radius']:.3f} with {result['n']:,} samples), abstained on "
        f"{percent(result['abstained'])}"
    )
    console.print(
        "The certificates are about the smoothed classifier, not the network alone. Each holds "
        f"with probability {1 - result['alpha']:g} (1 - alpha) for its image."
    )
