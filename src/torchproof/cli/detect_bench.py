"""`torchproof detect-bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from torchproof import data as sets
from torchproof.cli import options
from torchproof.cli.inputs import network_and_data
from torchproof.cli.options import console, tell
from torchproof.core.errors import FileError
from torchproof.detect.bench.attack_rows import attack_rows, chosen, strengths_of
from torchproof.detect.bench.record import FILE, Bench, Rate
from torchproof.detect.bench.run import bench, stored_scores
from torchproof.detect.bench.setup import Setup
from torchproof.detect.bench.splits import ELSEWHERE, Sizes, elsewhere
from torchproof.detect.catalogue import DETECTORS, recipe
from torchproof.evaluate.versions import versions
from torchproof.report.detect_bench import render_bench
from torchproof.report.detect_plots import main_fits

NONE = "none"


def detect_bench(
    model: options.Model,
    data: options.Data = "digits",
    detector: Annotated[
        list[str] | None,
        typer.Option(help="Such as nic or 'lid(k=30)'; several go; default: all of them."),
    ] = None,
    attack: Annotated[
        list[str] | None,
        typer.Option(help="Attacks by name or beginning: PGD, 'FGSM linf:0.3'; default: all."),
    ] = None,
    train_on: Annotated[
        list[str] | None,
        typer.Option(help="What supervised detectors learn, each; default: the main attack."),
    ] = None,
    main: Annotated[
        str | None,
        typer.Option(help="The bounded attack whose radius adaptive ones have; default: PGD."),
    ] = None,
    fpr: Annotated[float, typer.Option(help="False-alarm rate that thresholds are for.")] = 0.05,
    fit: Annotated[int, typer.Option(help="Training images to fit on.", min=1)] = 2000,
    calibrate: Annotated[int, typer.Option(help="Test images for thresholds.", min=1)] = 1000,
    n: Annotated[int, typer.Option("--n", "--first", help="Other test images.", min=1)] = 500,
    adaptive: Annotated[int, typer.Option(help="Of these attacked adaptively.", min=1)] = 100,
    other: Annotated[
        list[str] | None,
        typer.Option(help="Data from elsewhere; 'none'; default: what is there for --data."),
    ] = None,
    batch_size: options.Slots = 128,
    out: Annotated[Path, typer.Option(help="Where record, page and images go.")] = Path(
        "runs/detect-bench"
    ),
    seed: options.Seed = 0,
    device: options.Device = None,
    data_dir: options.DataDir = None,
    resume: options.Resume = False,
) -> None:
    """Compare detectors of adversarial examples: fitted, calibrated and judged on different images,
    and attacked by an adversary who knows them.

    Writes detect-bench.json, the scores of every image (records.jsonl), the adversarial images, the
    pictures and detect-bench.html. Exit code 1 where a detector does not apply to the network. A
    killed run goes on with --resume.
    """
    loaded, test = network_and_data(model, data, data_dir, device)
    train = sets.load(data, data_dir=data_dir, split="train")
    shape = tuple(test.x.shape[1:])
    known = attack_rows(data, shape)
    main = main or f"PGD linf:{strengths_of(data, shape).main:g}"
    learnt = tuple(train_on or [main])
    wanted = [*attack, main, *learnt] if attack else list(known)
    setup = Setup(
        dict(recipe(text, data) for text in detector or DETECTORS),
        chosen(known, wanted), main, learnt, Sizes(fit, calibrate, n, min(adaptive, n)), fpr,
        seed, batch_size,
    )  # fmt: skip
    about = {"model": loaded.name, "data": data, "versions": versions(),
             "command": options.command_line()}  # fmt: skip
    found = bench(
        loaded.model, train, test, setup, _elsewhere(other, data, test.x[0], n, seed, data_dir),
        about=about, out=out, resume=resume, say=tell,
    )  # fmt: skip
    _show(found, render_bench(found, stored_scores(out), out), out)


def _elsewhere(
    names: list[str] | None, data: str, like: Tensor, n: int, seed: int, data_dir: Path | None
) -> dict[str, Tensor]:
    """Those that were named, which have to be there, or what is there of those for this data."""
    if names is not None:
        wanted = [name for name in names if name != NONE]
        return elsewhere(wanted, like, n, seed, data_dir)
    found: dict[str, Tensor] = {}
    for name in ELSEWHERE.get(data, ()):
        try:
            found |= elsewhere([name], like, n, seed, data_dir)
        except FileError as error:
            tell(f"without {name}: {error.given}")
    return found


def _show(found: Bench, page: Path, out: Path) -> None:
    table = Table("detector", f"AUROC, {found.main}", "adaptive", "robust with it", "false alarms")
    for one in main_fits(found):
        told, adaptive = one.told(found.main), one.adaptive
        table.add_row(
            escape(one.name), "–" if told is None else f"{told.auroc:.3f}",
            "–" if adaptive is None or adaptive.after is None else f"{adaptive.after:.3f}",
            "–" if adaptive is None else _percent(adaptive.robust), _percent(one.alarms),
        )  # fmt: skip
    console.print(table)
    for one in main_fits(found):
        if one.adaptive is not None and one.adaptive.failed:
            tell(f"beware: {one.name}: {one.adaptive.reading}; it does not show robustness")
    for one in found.judged:
        if one.adaptive is not None and one.adaptive.lacks:
            tell(f"beware: {one.name}: {one.adaptive.lacks}")
    for name, reason in found.refused.items():
        tell(f"refused: {name}: {reason}")
    for name, reason in found.unattacked.items():
        tell(f"adaptive attack refused: {name}: {reason}")
    tell(f"record: {out / FILE}, page: {page}")
    raise typer.Exit(1 if found.refused or found.unattacked else 0)


def _percent(rate: Rate) -> str:
    return f"{100 * rate.share:.1f} %"
