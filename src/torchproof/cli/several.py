"""Commands that `torchrun` starts several times, as processes that share one run."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch
import typer

from torchproof.cli.options import device_of, tell
from torchproof.core.errors import InputError
from torchproof.evaluate import together
from torchproof.train import distributed


def started() -> int:
    """The number of processes that torchrun started, 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local(name: str | None) -> torch.device:
    """This process's device: under torchrun, the GPU of its rank."""
    device = device_of(name)
    rank = os.environ.get("LOCAL_RANK")
    if device.type == "cuda" and device.index is None and rank is not None:
        device = torch.device("cuda", int(rank))
        torch.cuda.set_device(device)
    return device


def begin(out: Path, examples: int, device: torch.device, resume: bool) -> None:
    """The first process divides the work, the others wait for that. A restart by torchrun goes on
    with it.
    """
    if examples < 2:
        given = f"{examples} example for {started()} processes"
        raise InputError(given, "at least two", "start it without torchrun")
    first(device, lambda: together.begin(out, examples, started(), resumed(resume)))


def resumed(resume: bool) -> bool:
    """Whether to go on with what is there: also where torchrun started all processes again."""
    return resume or int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def first(device: torch.device, call: Callable[[], None]) -> None:
    """The first process makes the call, the others wait for its end."""
    with distributed.joined(device):
        if distributed.rank() == 0:
            call()
        distributed.wait()


def rank() -> int:
    """This process's number among those that torchrun started, 0 without it."""
    return int(os.environ.get("RANK", "0"))


def concluded(out: Path) -> typer.Exit:
    """For the processes that did not put the parts together; only the first one speaks."""
    if rank() == 0:
        tell(f"result: {out}")
    return typer.Exit(0)


def unfinished(out: Path) -> typer.Exit:
    """Says what to do where the time did not suffice; only the first process speaks."""
    if rank() == 0:
        tell(f"{out} is not complete: start it again with --resume")
    return typer.Exit(1)
