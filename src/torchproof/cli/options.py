"""Options that several commands share, and what they all need: a device, a clock, a console."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from textwrap import shorten
from typing import Annotated

import torch
import typer
from rich.console import Console

from torchproof.core.errors import InputError

Model = Annotated[
    str,
    typer.Argument(
        help="A run directory, a .safetensors beside its JSON card, file.py:callable, "
        "package.module:callable, a .pt2 export, an .onnx file, a checkpoint of RobustBench's zoo, "
        "hub:OWNER/NAME or timm:NAME."
    ),
]
Data = Annotated[str, typer.Option("--data", help="A data set; see `torchproof list data`.")]
DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", help="Where data sets are found; default $TORCHPROOF_DATA."),
]
Threats = Annotated[
    list[str],
    typer.Option("--threat", help="NORM:EPS, such as linf:8/255; several give their union."),
]
Region = Annotated[
    str | None,
    typer.Option(
        "--region",
        help="Where images may change: Centre(4), Frame(4), Scattered(0.1), Boxes(edge=3), "
        "Patches(edge=2, count=4), Salient(4); pixels.",
    ),
]
Seed = Annotated[int, typer.Option("--seed", help="Keys every random number.", min=0)]
Device = Annotated[
    str | None, typer.Option("--device", help="cpu, cuda, cuda:1, mps; default: a GPU if any.")
]
Slots = Annotated[int, typer.Option("--batch-size", help="Examples per model call.", min=1)]
# torchrun takes --n for an abbreviation of options of its own, hence the second name
First = Annotated[
    int | None, typer.Option("--n", "--first", help="Only the first N examples.", min=1)
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on where a killed run stopped.")]
MaxSeconds = Annotated[
    float | None,
    typer.Option(
        "--max-seconds", help="Stop cleanly after so long and say what is missing.", min=0
    ),
]

console = Console()


def device_of(name: str | None) -> torch.device:
    """The device that the user named, or the best there is; raises InputError for one there is
    not.
    """
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # meta tensors exist, but hold nothing
    except Exception as error:  # torch raises many kinds for a device that is not there
        reason = shorten(str(error).splitlines()[0].split(". ")[0], 120)
        raise InputError(
            f"device {name!r} ({reason})", "a device that is there", "try cpu"
        ) from None
    return device


def tell(text: str) -> None:
    """A line that may hold a path: it is neither wrapped nor read as markup."""
    console.print(text, soft_wrap=True, markup=False, highlight=False)


def command_line() -> str:
    """The command as it can be pasted into a shell."""
    return shlex.join(["torchproof", *sys.argv[1:]])


def deadline(seconds: float | None) -> Callable[[], bool] | None:
    """A function that says whether so many seconds are over; None without a limit."""
    if seconds is None:
        return None
    end = time.monotonic() + seconds
    return lambda: time.monotonic() > end


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.2f} %"
