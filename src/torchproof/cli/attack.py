"""`torchproof attack`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor

from torchproof.attack.untouched import home, untouched
from torchproof.cli import options
from torchproof.cli.inputs import members_of, network_and_data, threats_of, within
from torchproof.cli.options import console, tell
from torchproof.cli.show import progress_bar, show_report
from torchproof.core.errors import InputError
from torchproof.core.files import replacing, writing
from torchproof.core.threats import AnyThreat
from torchproof.evaluate import evaluate as measure
from torchproof.evaluate.flags import SEVERE
from torchproof.evaluate.recheck import allowed


def attack(
    model: options.Model,
    threat: Annotated[str, typer.Option(help="NORM:EPS, such as linf:8/255.")],
    out: Annotated[Path, typer.Option(help="The .npz file to write.")],
    data: options.Data = "digits",
    attack_: Annotated[
        str, typer.Option("--attack", help="E.g. 'PGD(steps=50)', 'Restarts(PGD(), 5)', 'apgd-t'.")
    ] = "PGD",
    region: options.Region = None,
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
    (limits,) = within(threats_of([threat]), region)
    members = members_of(attack_, [limits])
    loaded, test = network_and_data(model, data, data_dir, device, n)
    _claim(out)
    with progress_bar() as show:
        report = measure(
            loaded.model,
            test,
            limits,
            members,
            seed=seed,
            slots=batch_size,
            progress=show,
            name=loaded.name,
            data_name=f"{data} (test)",
            model_sha256=loaded.sha256,
            data_sha256=test.sha256,
            command=options.command_line(),
        )
    adversarial = report.adversarial
    assert adversarial is not None, "images are kept in memory until they are written here"
    broken = torch.tensor([e.status in ("broken", "misclassified") for e in report.examples])
    clean = torch.tensor([e.clean for e in report.examples])
    _write(out, x=test.x, x_adv=adversarial.cpu(), y=test.y, broken=broken, clean=clean)
    show_report(report)
    for label in report.labels:
        tell(f"label: {label}")
    tell(f"adversarial images: {out}")
    failed = _recheck(out, loaded.model, limits, batch_size)
    if failed:
        shown = ", ".join(map(str, failed[:20]))
        console.print(f"re-check failed for {len(failed)} examples, among them {shown}")
        raise typer.Exit(1)
    console.print("re-checked after writing: all inside the threat, all still misclassified")
    # other flags doubt the accuracy, not the images, and one attack need not be an evaluation
    doubted = any(f.name == "recheck-failed" and f.severity == SEVERE for f in report.flags)
    raise typer.Exit(1 if doubted else 0)


def _claim(path: Path) -> None:
    """Makes sure, before the work is done, that a file can be written there."""
    if path.suffix != ".npz":
        raise InputError(f"--out {path}", "a file that ends in .npz", "write --out adversarial.npz")
    probe = path.with_name(f".{path.name}.probe")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    if path.is_dir():
        raise InputError(f"--out {path}, a folder", "a file", "choose another name")


def _write(path: Path, **arrays: Tensor) -> None:
    """The whole file or none of it; raises FileError."""
    plain: dict[str, Any] = {name: array.cpu().numpy() for name, array in arrays.items()}
    with replacing(path) as file:
        np.savez_compressed(file, **plain)


@torch.no_grad()
def _recheck(path: Path, model: torch.nn.Module, threat: AnyThreat, slots: int) -> list[int]:
    """The examples that, read back, are outside the threat, or broken and classified correctly."""
    with np.load(path, allow_pickle=False) as stored:
        x, x_adv, y = (torch.from_numpy(stored[k]) for k in ("x", "x_adv", "y"))
        attacked = torch.from_numpy(stored["broken"] & stored["clean"])
    right = torch.zeros(len(y), dtype=torch.bool)
    with untouched(model):
        for i in range(0, len(x), slots):
            part = x_adv[i : i + slots].to(home(model))
            right[i : i + slots] = model(part).argmax(1).cpu() == y[i : i + slots]
    wrong = ~allowed(threat, model, x, x_adv) | (attacked & right)
    return [int(i) for i in wrong.nonzero()[:, 0]]
