"""`torchproof attack`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from torch import Tensor

from torchproof import data as sets
from torchproof.attack import Attack, Run, untouched
from torchproof.attack.catalogue import NAMES
from torchproof.cli import options
from torchproof.cli.options import console, percent
from torchproof.core.checks import check_logits
from torchproof.core.errors import FileError, InputError
from torchproof.core.expression import parse
from torchproof.core.metrics import clopper_pearson
from torchproof.core.sets import TOLERANCE
from torchproof.core.threats import Threat
from torchproof.core.threats import parse as parse_threat
from torchproof.nn import load_model


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
    chosen = parse(attack_, NAMES, threat=limits)
    if not isinstance(chosen, Attack):
        raise InputError(f"--attack {attack_}", "an attack", "see `torchproof list attacks`")
    if out.suffix != ".npz":
        raise InputError(f"--out {out}", "a file that ends in .npz", "write --out adversarial.npz")
    test = sets.load(data, data_dir=data_dir, split="test")
    test = test if n is None else test.take(n)
    loaded = load_model(model, options.device_of(device))
    clean = _correct(loaded.model, test.x, test.y, batch_size, len(test.classes))
    rows = clean.nonzero()[:, 0]
    found = chosen(
        loaded.model, test.x[rows], test.y[rows], run=Run(seed=seed, slots=batch_size, ids=rows)
    )
    x_adv, broken = test.x.clone(), ~clean
    assert isinstance(found.value, Tensor)
    lost = rows[found.lost]
    x_adv[lost] = (test.x[lost] + found.value[found.lost]).clamp(limits.low, limits.high)
    broken[lost] = True
    _write(out, x=test.x, x_adv=x_adv, y=test.y, broken=broken, clean=clean)
    failed = _recheck(out, loaded.model, limits, batch_size, len(test.classes))
    _say(limits, attack_, clean, broken, found.spent.sum(0), out)
    if failed:
        console.print(f"re-check failed for examples {failed[:20]}")
        raise typer.Exit(1)
    console.print("re-checked after writing: all inside the threat, all still misclassified")


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


def _write(path: Path, **arrays: Tensor) -> None:
    """The whole file or none of it."""
    partial = path.with_name(path.name + ".partial.npz")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(partial, **{k: v.numpy() for k, v in arrays.items()})
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise FileError(
            f"{path} ({error})", "a file that can be written", "free some space"
        ) from None


def _recheck(
    path: Path, model: torch.nn.Module, threat: Threat, slots: int, classes: int
) -> list[int]:
    """The broken examples that, read back, are outside the threat or classified correctly."""
    with np.load(path, allow_pickle=False) as stored:
        x, x_adv, y = (torch.from_numpy(stored[k]) for k in ("x", "x_adv", "y"))
        attacked = torch.from_numpy(stored["broken"] & stored["clean"])
    length = threat.norm.length(x_adv - x)
    outside = (length > threat.eps * (1 + TOLERANCE)) | (x_adv < threat.low).flatten(1).any(1)
    outside |= (x_adv > threat.high).flatten(1).any(1)
    wrong = outside | _correct(model, x_adv, y, slots, classes)
    return [int(i) for i in (attacked & wrong).nonzero()[:, 0]]


def _say(
    threat: Threat, text: str, clean: Tensor, broken: Tensor, spent: Tensor, out: Path
) -> None:
    n, robust = len(clean), int((~broken).sum())
    low, high = clopper_pearson(robust, n)
    forward, backward = spent.tolist()
    console.print(
        f"{text}, threat {threat}, n = {n}: clean {percent(clean.float().mean().item())}, robust "
        f"{percent(robust / n)} (95 % interval {percent(low)} to {percent(high)}); "
        f"{forward:,} forward and {backward:,} backward samples"
    )
    console.print(f"adversarial images: {out}", soft_wrap=True)
