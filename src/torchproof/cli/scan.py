"""`torchproof scan`."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from torchproof import data as sets
from torchproof.backdoor.bank import Bank, Recipe, build_bank
from torchproof.backdoor.rule import Origin, Rule
from torchproof.backdoor.scan import Scan, calibrate_on
from torchproof.backdoor.scan import scan as look
from torchproof.backdoor.titrate import noise_images
from torchproof.cli import options
from torchproof.cli.inputs import network_and_data
from torchproof.cli.options import console, percent, tell
from torchproof.core.errors import InputError, unknown
from torchproof.core.files import write
from torchproof.data.dataset import Dataset
from torchproof.nn.loading import Loaded
from torchproof.nn.networks import MODELS
from torchproof.report.pictures import save
from torchproof.report.titration_plots import draw

SCHEMA = "torchproof.scan/1"
IMAGES = 400
BANKED = 1000  # test images that the networks of a bank are measured on
RULE = "rule.json"

NOISE = (
    "from noise images, which are known to mislead: on small networks the curves of trojaned ones "
    "were lower than those of clean ones"
)


def scan(
    model: options.Model,
    data: options.Data = "digits",
    bank: Annotated[
        Path | None,
        typer.Option(
            help="A rule written before (.json), or a folder of networks to calibrate one on."
        ),
    ] = None,
    build: Annotated[
        Path | None,
        typer.Option(
            "--build-bank",
            help="Train a bank of the network's own architecture in this folder, and judge by it; "
            "networks and rule stay there, and those that are there are not trained again.",
        ),
    ] = None,
    clean: Annotated[int, typer.Option(help="Clean networks to build.", min=4)] = 12,
    trojaned: Annotated[int, typer.Option(help="Trojaned networks to build.", min=1)] = 12,
    network: Annotated[
        str | None,
        typer.Option("--bank-network", help="Their architecture; default: what the card says."),
    ] = None,
    bank_images: Annotated[
        int, typer.Option(help="Training images of each, at most.", min=1)
    ] = Recipe.n,
    bank_epochs: Annotated[
        int | None,
        typer.Option(
            help="Default: as many steps as 5 epochs of 6,000 images take; give those of the "
            "network.",
            min=1,
        ),
    ] = None,
    n: Annotated[
        int | None,
        typer.Option(
            "--n", "--first", help=f"Test images; default {IMAGES}, or the rule's.", min=1
        ),
    ] = None,
    noise: Annotated[
        bool, typer.Option("--noise-images", help="Start from noise images; gives no verdict.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Where scan.json and the picture go.")] = Path(
        "runs/scan"
    ),
    seed: options.Seed = 0,
    device: options.Device = None,
    data_dir: options.DataDir = None,
) -> None:
    """Look for a backdoor by how a network answers noise: is there one, and where does it lead?

    Writes scan.json, curve.png, curve.svg and, with a folder as --bank, rule.json for the next
    time. --build-bank DIR trains clean and trojaned networks first, minutes to hours once: a killed
    build goes on with the same command, and --bank DIR/rule.json then judges others in seconds.
    Without a bank there is a curve and the class that noise leads to, but no verdict. Exit code 1
    says that a backdoor is suspected.
    """
    if noise and (bank is not None or build is not None):
        given, remedy = "--noise-images with a bank", "leave one of them out"
        raise InputError(given, "real images, which rules are calibrated with", remedy)
    if bank is not None and build is not None:
        raise InputError("--bank and --build-bank", "one of them", "leave one of them out")
    loaded, test = network_and_data(model, data, data_dir, device)
    if build is not None:
        train = sets.load(data, data_dir=data_dir, split="train")
        recipe = _recipe(loaded, network, len(train), bank_images, bank_epochs)
        _build(build, loaded, (train, test), recipe, (clean, trojaned), seed)
    rule = _rule(bank or build, data, test, n, seed, build or out)
    x, y = _images(test, rule, n, noise, seed)
    origin = Origin(data, str(loaded.card.get("model", "")))
    found = look(loaded.model, x, rule, y=y, origin=origin, seed=seed)
    told = (*found.cautions, NOISE) if noise else found.cautions
    about = {"model": loaded.name, "model_sha256": loaded.sha256, "data": data}
    _write(out, found, told, about, rule)
    _show(found, told, f"{loaded.name} on {data} (test)", test.classes, rule)
    figure = draw(found.titration, test.classes, roc=None if rule is None else rule.roc)
    for kind in ("png", "svg"):
        save(figure, out / f"curve.{kind}")
    tell(f"stored in {out}")
    raise typer.Exit(1 if found.verdict == "backdoor suspected" else 0)


def _recipe(
    loaded: Loaded, network: str | None, most: int, images: int, epochs: int | None
) -> Recipe:
    """How to train a bank for this network; raises InputError where its architecture is not known,
    UnknownName for one that is not.
    """
    name = network or str(loaded.card.get("model", ""))
    if not name:
        given = f"--build-bank for {loaded.name}, which has no card that names its architecture"
        raise InputError(
            given, "an architecture", f"--bank-network with one of {', '.join(MODELS)}"
        )
    if name not in MODELS:
        raise unknown("network", name, MODELS)
    count = min(images, most)
    usual = math.ceil(Recipe.epochs * max(1.0, Recipe.n / count))
    return Recipe(network=name, n=count, epochs=epochs or usual)


def _build(
    folder: Path, loaded: Loaded, parts: tuple[Dataset, Dataset], recipe: Recipe,
    counts: tuple[int, int], seed: int,
) -> None:  # fmt: skip
    """Trains what is not in the folder yet; with the options of the network's own card, but for
    what the data set says.
    """
    train, test = parts
    stored: dict[str, Any] = {}
    if loaded.card.get("model") == recipe.network:
        stored = dict(loaded.card.get("options", {}))
    stored = {k: v for k, v in stored.items() if k not in ("channels", "size", "classes")}
    tell(
        f"bank of {counts[0]} clean and {counts[1]} trojaned {recipe.network}, {recipe.n} images, "
        f"{recipe.epochs} epochs each, in {folder}"
    )
    build_bank(
        train, test.take(min(BANKED, len(test))), folder, clean=counts[0], trojaned=counts[1],
        recipe=recipe, options=stored, seed=seed, say=tell,
    )  # fmt: skip


def _images(
    test: Dataset, rule: Rule | None, n: int | None, noise: bool, seed: int
) -> tuple[Tensor, Tensor | None]:
    """The images to titrate, and their labels where they have some."""
    if rule is not None and n is not None and n != rule.setting.n:
        given = f"--n {n} with a rule that was calibrated with {rule.setting.n} images"
        raise InputError(given, "the same number", "leave out --n")
    count = rule.setting.n if rule is not None else n or min(IMAGES, len(test))
    if noise:
        channels, height, width = test.x.shape[1:]
        return noise_images(count, (channels, height, width), seed), None
    some = test.take(count)
    return some.x, some.y


def _rule(
    path: Path | None, data: str, test: Dataset, n: int | None, seed: int, out: Path
) -> Rule | None:
    """The rule of the file, or one calibrated on the networks of the folder, and then stored in
    `out`.
    """
    if path is None:
        return None
    if not path.is_dir():
        return Rule.read(path)
    bank, some = Bank.read(path), test.take(n or min(IMAGES, len(test)))
    rule = calibrate_on(bank, some.x, Origin(data, bank.architecture), seed=seed)
    rule.write(out / RULE)
    tell(f"calibrated on {len(bank.entries)} networks: {out / RULE}")
    return rule


def _write(
    out: Path, found: Scan, cautions: tuple[str, ...], about: dict[str, str], rule: Rule | None
) -> None:
    content = {
        "schema": SCHEMA,
        **about,
        "command": options.command_line(),
        **asdict(found),
        "bank": None if rule is None else _bank(rule),
        "cautions": cautions,
    }
    write(out / "scan.json", (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())


def _bank(rule: Rule) -> dict[str, Any]:
    """How well the rule tells its own bank apart."""
    roc = rule.roc
    counts = {"clean": len(rule.clean), "trojaned": len(rule.trojaned)}
    return {**asdict(rule.origin), **counts, "auroc": roc.area, "auroc_ci95": roc.ci95}


def _show(
    found: Scan, cautions: tuple[str, ...], about: str, classes: tuple[str, ...], rule: Rule | None
) -> None:
    """The curve, the verdict, what to beware of."""
    _show_curve(found, about, classes)
    if rule is None:
        tell(_led(found, classes, "noise leads"))
    else:
        tell(
            f"score {found.score:.2f}, threshold {found.threshold:.2f}; as much or more: "
            f"{percent(found.above)} of the bank's clean networks"
        )
        tell(_led(found, classes, "a backdoor would lead"))
        low, high = rule.roc.ci95
        tell(
            f"the rule tells the bank's own {len(rule.clean)} clean and {len(rule.trojaned)} "
            f"trojaned networks apart with an AUROC of {rule.roc.area:.2f} ({low:.2f} to "
            f"{high:.2f})"
        )
    console.print(f"[bold]{found.verdict}[/bold], in {found.seconds:.1f} s")
    for caution in cautions:
        tell(f"caution: {caution}")


def _led(found: Scan, classes: tuple[str, ...], what: str) -> str:
    """Which class it is about, if any."""
    number = found.suspected
    if number is None:
        return "no answer changes with confidence at moderate noise: it leads to no class"
    name = classes[number] if number < len(classes) else str(number)
    more = "" if name == str(number) else f" (class number {number})"
    return f"{what} to class {name}{more}"


def _show_curve(found: Scan, about: str, classes: tuple[str, ...]) -> None:
    curve, how = found.titration, found.titration.setting
    console.print(
        f"{escape(about)}, n = {how.n}, changed answers with confidence above {how.gamma:g}"
    )
    table = Table()
    for column in ("sigma", "T", "of changed", "most frequent answer"):
        table.add_column(column, justify="left" if column.startswith("most") else "right")
    for sigma, share, of, row in zip(
        curve.sigmas, curve.share, curve.share_of_flips, curve.histogram, strict=True
    ):
        often = row.index(max(row))
        most = f"{escape(classes[often] if often < len(classes) else str(often))}, "
        table.add_row(
            f"{sigma:g}", percent(share), percent(of), most + percent(max(row) / sum(row))
        )
    console.print(table)
    half = "beyond" if curve.sigma_50 is None else f"{curve.sigma_50:.2f}"
    tell(f"area over log sigma: {curve.area:.3f}; T reaches one half at sigma {half}")
