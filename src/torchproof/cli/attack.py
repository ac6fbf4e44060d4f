"""`torchproof attack`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.markup import escape
from torch import Tensor

from torchproof.attack import Attack, Found, Run, untouched
from torchproof.attack.catalogue import NAMES
from torchproof.cli import options
from torchproof.cli.evaluate import progress_bar
from torchproof.cli.inputs import network_and_data
from torchproof.cli.options import console, percent, tell
from torchproof.core.checks import check_logits
from torchproof.core.errors import FileError, InputError
from torchproof.core.expression import parse
from torchproof.core.metrics import clopper_pearson
from torchproof.core.sets import TOLERANCE
from torchproof.core.threats import Threat
from torchproof.core.threats import parse as parse_threat
from torchproof.evaluate import Progress
from torchproof.recipes import meant


def attack(
    model: options.Model,
    threat: Annotated[str, typer.Option(help="NORM:EPS, such as linf:8/255.")],
    out: Annotated[Path, typer.Option(help="The .npz file to write.")],
    data: options.Data = "digits",
    attack_: Annotated[
        str, typer.Option("--attack", help="E.g. 'PGD(steps=50)', 'Restarts(PGD(), 5)', 'apgd-t'.")
    ] = "PGD",
    n: options.First = None,
    batch_size: options.Slots = 128,
    seed: options.Seed = 0,
    device: options.Device = None,
    data_dir: options.DataDir = None,
) -> None:
    """Write adversarial images of the test part of a data set, and re-check them after writing.

    The file holds x (clean), x_adv, y, broken (misclassified after the attack), clean (classified
    correctly before). Exit code 1 when an image that was read back is outside the threat or no
    longer fools the model.
    """
    limits = parse_threat(threat)
    chosen = _chosen(attack_, limits)
    loaded, test = network_and_data(model, data, data_dir, device, n)
    _claim(out)
    clean = _correct(loaded.model, test.x, test.y, batch_size, len(test.classes))
    rows = clean.nonzero()[:, 0]
    with _bar(attack_, len(rows)) as show:
        run = Run(seed=seed, slots=batch_size, ids=rows, on_done=show)
        found = chosen(loaded.model, test.x[rows], test.y[rows], run=run)
    x_adv, broken = test.x.clone(), ~clean
    assert isinstance(found.value, Tensor)
    lost = rows[found.lost]
    x_adv[lost] = (test.x[lost] + found.value[found.lost]).clamp(limits.low, limits.high)
    broken[lost] = True
    _write(out, x=test.x, x_adv=x_adv, y=test.y, broken=broken, clean=clean)
    failed = _recheck(out, loaded.model, limits, batch_size, len(test.classes))
    _say(limits, attack_, clean, broken, found.spent.sum(0), out)
    if failed:
        shown = ", ".join(map(str, failed[:20]))
        console.print(f"re-check failed for {len(failed)} examples, among them {shown}")
        raise typer.Exit(1)
    console.print("re-checked after writing: all inside the threat, all still misclassified")


def _chosen(text: str, threat: Threat) -> Attack:
    """The attack that an expression describes; raises InputError and UnknownName."""
    with meant(text):
        chosen = parse(text, NAMES, threat=threat)
    if not isinstance(chosen, Attack):
        raise InputError(f"--attack {text}", "an attack", "see `torchproof list attacks`")
    return chosen


@contextmanager
def _bar(text: str, total: int) -> Iterator[Callable[[Found, list[int]], None]]:
    """Shows how many examples are finished."""
    with progress_bar() as show:
        count = {"done": 0, "broken": 0}

        def tell(found: Found, done: list[int]) -> None:
            count["done"] += len(done)
            count["broken"] += int(found.lost[done].sum())
            show(Progress(escape(text), count["done"], total, count["broken"]))

        yield tell


@torch.no_grad()
def _correct(
    model: torch.nn.Module, x: Tensor, y: Tensor, slots: int, classes: int | None
) -> Tensor:
    device = next((t.device for t in model.parameters()), torch.device("cpu"))
    right = []
    with untouched(model):
        for i in range(0, len(x), slots):
            logits = model(x[i : i + slots].to(device))
            check_logits(logits, len(x[i : i + slots]), classes)
            right.append(logits.argmax(1).cpu() == y[i : i + slots])
    return torch.cat(right)


def _claim(path: Path) -> None:
    """Makes sure, before the work is done, that a file can be written there."""
    if path.suffix != ".npz":
        raise InputError(f"--out {path}", "a file that ends in .npz", "write --out adversarial.npz")
    with _writing(path) as partial:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.touch()
    if path.is_dir():
        raise InputError(f"--out {path}, a folder", "a file", "choose another name")


def _write(path: Path, **arrays: Tensor) -> None:
    """The whole file or none of it; raises FileError."""
    with _writing(path) as partial:
        plain: dict[str, Any] = {name: array.cpu().numpy() for name, array in arrays.items()}
        np.savez_compressed(partial, **plain)
        os.replace(partial, path)


@contextmanager
def _writing(path: Path) -> Iterator[Path]:
    """The name of a file beside `path` that is gone afterwards; OSErrors become FileErrors."""
    partial = path.with_name(path.name + ".partial.npz")
    try:
        yield partial
    except OSError as error:
        raise FileError(
            f"{path} ({error})", "a file that can be written", "free some space, or choose another"
        ) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _recheck(
    path: Path, model: torch.nn.Module, threat: Threat, slots: int, classes: int
) -> list[int]:
    """The examples that, read back, are outside the threat, or broken and classified correctly."""
    with np.load(path, allow_pickle=False) as stored:
        x, x_adv, y = (torch.from_numpy(stored[k]) for k in ("x", "x_adv", "y"))
        attacked = torch.from_numpy(stored["broken"] & stored["clean"])
    length = threat.norm.length(x_adv - x)
    boxed = ((x_adv >= threat.low) & (x_adv <= threat.high)).flatten(1).all(1)
    inside = (length <= threat.eps * (1 + TOLERANCE)) & boxed  # NaN is in neither
    wrong = ~inside | (attacked & _correct(model, x_adv, y, slots, classes))
    return [int(i) for i in wrong.nonzero()[:, 0]]


def _say(
    threat: Threat, text: str, clean: Tensor, broken: Tensor, spent: Tensor, out: Path
) -> None:
    n, robust = len(clean), int((~broken).sum())
    low, high = clopper_pearson(robust, n)
    forward, backward = spent.tolist()
    console.print(
        f"{escape(text)}, threat {threat}, n = {n}: clean {percent(clean.float().mean().item())}, "
        f"robust {percent(robust / n)} (95 % interval {percent(low)} to {percent(high)}); "
        f"{forward:,} forward and {backward:,} backward samples"
    )
    tell(f"adversarial images: {out}")
