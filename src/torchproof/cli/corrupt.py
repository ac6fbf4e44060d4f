"""`torchproof corrupt`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.measure import Measurement
from rich.table import Table

from torchproof.cli import options
from torchproof.cli.inputs import network_and_data
from torchproof.cli.options import console, percent, tell
from torchproof.cli.show import progress_bar
from torchproof.core.errors import InputError
from torchproof.core.files import write
from torchproof.corrupt import CORRUPTIONS, STRENGTHS
from torchproof.corrupt.sheet import contact_sheet
from torchproof.evaluate.corruptions import Corruptions, corruptions

SHEET = "corruptions.png"


def corrupt(
    model: options.Model,
    data: options.Data = "digits",
    kinds: Annotated[
        str, typer.Option(help="Comma-separated; see `torchproof list corruptions`.")
    ] = ",".join(CORRUPTIONS),
    strengths: Annotated[str, typer.Option(help="Comma-separated, from 1 to 5.")] = ",".join(
        map(str, STRENGTHS)
    ),
    n: options.First = None,
    batch_size: options.Slots = 128,
    out: Annotated[Path, typer.Option(help="Where corruptions.json goes.")] = Path("runs/corrupt"),
    sheet: Annotated[
        bool, typer.Option("--sheet", help=f"Also write {SHEET}: the first image under each.")
    ] = False,
    seed: options.Seed = 0,
    device: options.Device = None,
    data_dir: options.DataDir = None,
) -> None:
    """Measure accuracy under common corruptions: noise, blur, weather, digital faults.

    Fifteen kinds in five strengths on the test part of a data set (Hendrycks and Dietterich 2019),
    with intervals. They are torchproof's own: figures compare with each other, not with those of
    the files of CIFAR-10-C.
    """
    chosen, levels = _words(kinds), _numbers(strengths)
    loaded, test = network_and_data(model, data, data_dir, device)
    with progress_bar() as show:
        result = corruptions(
            loaded.model,
            test,
            chosen,
            levels,
            seed=seed,
            n=n,
            slots=batch_size,
            progress=show,
            name=loaded.name,
            data_name=f"{data} (test)",
            model_sha256=loaded.sha256,
            data_sha256=test.sha256,
            command=options.command_line(),
        )
    path = result.save(out)
    if sheet:
        write(out / SHEET, contact_sheet(test.x[0], chosen, levels, seed))
        tell(f"contact sheet: {out / SHEET}")
    _show(result)
    tell(f"result: {path}")


def _words(text: str) -> list[str]:
    return [word.strip().replace("-", "_") for word in text.split(",")]


def _numbers(text: str) -> list[int]:
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        remedy = "write --strengths 1,3,5"
        raise InputError(f"--strengths {text}", "numbers from 1 to 5", remedy) from None


def _show(result: Corruptions) -> None:
    """A row per kind, its accuracy at each strength, the mean and its interval."""
    console.print(f"{result.model} on {result.data}, n = {result.n}", markup=False)
    table = Table()
    table.add_column("corruption", no_wrap=True)
    for title in (*map(str, result.strengths), "mean", "95 % interval"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in result.kinds:
        cells = [f"{100 * accuracy:.1f}" for accuracy in (*row.accuracies, row.mean)]
        table.add_row(row.kind, *cells, _interval(row.mean_ci95))
    if Measurement.get(console, console.options.update(max_width=1000), table).maximum <= (
        console.width
    ):
        console.print(table)
    else:  # a table squeezed into fewer columns would break its numbers
        for row in result.kinds:
            cells = [f"{100 * accuracy:.1f}" for accuracy in row.accuracies]
            console.print(f"{row.kind}: {', '.join(cells)}; mean {percent(row.mean)}")
    console.print(
        f"clean accuracy {percent(result.clean_accuracy)} "
        f"(95 % interval {_interval(result.clean_accuracy_ci95)} %)"
    )
    console.print(
        f"[bold]mean corruption accuracy {percent(result.mean_accuracy)}[/bold] "
        f"(95 % interval {_interval(result.mean_accuracy_ci95)} %)"
    )


def _interval(interval: tuple[float, float]) -> str:
    low, high = interval
    return f"{100 * low:.1f} to {100 * high:.1f}"
