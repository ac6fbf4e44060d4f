"""`torchproof concepts`."""

from __future__ import annotations

import io
import json
import statistics
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from torchproof import data as sets
from torchproof.cli import options
from torchproof.cli.inputs import network_and_data
from torchproof.cli.options import console, tell
from torchproof.concept import Concept, Margin, Plan, layer_names, read_pictures
from torchproof.concept import concepts as look
from torchproof.core import keys
from torchproof.core.errors import InputError, unknown
from torchproof.core.files import write
from torchproof.data.dataset import Dataset
from torchproof.evaluate.versions import versions
from torchproof.report.concept_sheet import concept_sheet
from torchproof.report.sheet import write_sheet

SCHEMA = "torchproof.concepts/1"
FILE = "concepts.json"
CLASSES, FEWEST = 10, 5  # asked about by default, and images that a class must have for that


def concepts(
    model: options.Model,
    concept: Annotated[
        str,
        typer.Option(help="A folder of pictures, or DATA=CLASS, such as npz:textures.npz=banded."),
    ],
    layer: Annotated[
        str, typer.Option(help="A layer's dotted name; `?` lists those of the network.")
    ],
    data: options.Data = "digits",
    random: Annotated[
        str | None,
        typer.Option(help="The same for random images; default: the training part of --data."),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(help="Classes that may depend on the concept; default: the most frequent."),
    ] = None,
    draws: Annotated[int, typer.Option(help="Of random images.", min=2)] = 10,
    per_draw: Annotated[
        int | None, typer.Option(help="Random images; default: as many as of the concept.", min=2)
    ] = None,
    eps: Annotated[
        float, typer.Option(help="Adversarial margin, in root mean squares of activations.", min=0)
    ] = 0.05,
    side: Annotated[str, typer.Option(help="What is moved: concept, random or both.")] = "concept",
    noise: Annotated[int, typer.Option(help="Gram-Schmidt random concepts to add.", min=0)] = 0,
    n: Annotated[int | None, typer.Option("--n", "--first", help="Test images.", min=2)] = None,
    most: Annotated[int, typer.Option(help="Random images taken from their set.", min=3)] = 1000,
    captum: Annotated[
        bool, typer.Option("--captum", help="Set captum's TCAV beside ours (extra concepts).")
    ] = False,
    out: Annotated[Path, typer.Option(help="Where record, page and pictures go.")] = Path(
        "runs/concepts"
    ),
    seed: options.Seed = 0,
    batch_size: options.Slots = 64,
    device: options.Device = None,
    data_dir: options.DataDir = None,
) -> None:
    """Find a concept in a layer: concept vectors (CAV, A-CAV), the classes that depend on them
    (TCAV), the images that show them most.

    Writes concepts.json, vector.npz, concepts.html and its pictures as PNG and SVG. Exit code 1
    where a classifier marks most random images, so that its recall says nothing.
    """
    loaded, test = network_and_data(model, data, data_dir, device, n)
    if layer == "?":
        for name in layer_names(loaded.model, test.x[:1]):
            tell(name)
        return
    margin = Margin(eps, side)  # type: ignore[arg-type]  # checked there
    plan = Plan(draws=draws, n=per_draw, margin=margin, noise=noise, seed=seed)
    rows = _images(concept, data, test, data_dir)
    pool = _pool(random, concept, data, test, data_dir)
    pool = pool[keys.permutation(len(pool), seed, "pool")[:most]]  # sets may be sorted by class
    targets = _targets(target, test)
    found = look(loaded.model, layer, rows, pool, test.x, test.y, targets, plan,
                 batch_size=batch_size, captum=captum)  # fmt: skip
    about = {"model": loaded.name, "model_sha256": loaded.sha256, "concept": concept,
             "random": random or f"{data} (train)", "data": data, "data_sha256": test.sha256,
             "versions": versions(), "command": options.command_line()}  # fmt: skip
    _store(found, about, out)
    title = f"{concept} in {layer} of {loaded.name}"
    page = concept_sheet(found, test.x, test.y, test.classes, title, about, FILE)
    write_sheet(page, out / "concepts.html")
    _show(found, test.classes, title, out)


def _images(text: str, data: str, test: Dataset, data_dir: Path | None) -> Tensor:
    """Images of a folder, or of a class of a data set (of the network's own, the training part), of
    the size and channels of the network's.

    Raises what `read_pictures` and `load` raise, UnknownName for a class that is not there,
    InputError for other sizes.
    """
    channels, height, width = test.x.shape[1:]
    name, mark, label = text.rpartition("=")
    if not mark or Path(text).is_dir():
        return read_pictures(Path(text), channels, height, width)
    found = sets.load(name, data_dir=data_dir, split="train" if name == data else "all")
    if label not in found.classes:
        raise unknown("class", label, found.classes)
    return _fitted(found.x[found.y == found.classes.index(label)], test)


def _fitted(x: Tensor, test: Dataset) -> Tensor:
    """Grey images for a network of colours are repeated; sizes are interpolated."""
    channels, height, width = test.x.shape[1:]
    if x.shape[1] == 1 and channels > 1:
        x = x.expand(-1, channels, -1, -1)
    if x.shape[1] != channels:
        given = f"images of {x.shape[1]} channels for a network of {channels}"
        raise InputError(given, "the same number, or grey images", "give a folder of pictures")
    if tuple(x.shape[2:]) == (height, width):
        return x
    return torch.nn.functional.interpolate(
        x, (height, width), mode="bilinear", antialias=True, align_corners=False
    ).clamp(0, 1)


def _pool(
    random: str | None, concept: str, data: str, test: Dataset, data_dir: Path | None
) -> Tensor:
    """The random images; those of the training part without the class that is the concept."""
    if random is not None:
        return _images(random, data, test, data_dir)
    train = sets.load(data, data_dir=data_dir, split="train")
    name, mark, label = concept.rpartition("=")
    if mark and name == data and label in train.classes:
        return train.x[train.y != train.classes.index(label)]
    return train.x


def _targets(names: list[str] | None, test: Dataset) -> list[int]:
    """Class numbers; by default of the classes with the most images, if they have a few."""
    if names:
        for name in names:
            if name not in test.classes:
                raise unknown("class", name, test.classes)
        return [test.classes.index(name) for name in dict.fromkeys(names)]
    counts = torch.bincount(test.y, minlength=len(test.classes))
    order = counts.argsort(descending=True, stable=True)[:CLASSES]
    return sorted(int(k) for k in order if int(counts[k]) >= FEWEST)


def _store(found: Concept, about: dict[str, Any], out: Path) -> None:
    """concepts.json without the vector, which is as wide as the layer, and vector.npz with it."""
    content = asdict(replace(found, vector=()))
    del content["vector"]
    for stored, way in zip(content["ways"], found.ways, strict=True):
        stored["spread"] = asdict(way.spread)
    for name in ("tcav", "tcav_adversarial"):
        for stored, one in zip(content[name], getattr(found, name), strict=True):
            stored |= {"score": one.score, "significant": one.significant}
    text = json.dumps({"schema": SCHEMA, **about, **content}, indent=1, allow_nan=False)
    write(out / FILE, (text + "\n").encode())
    packed = io.BytesIO()
    np.savez(packed, vector=np.array(found.vector), bias=found.bias, unit=found.unit)
    write(out / "vector.npz", packed.getvalue())


def _show(found: Concept, classes: tuple[str, ...], title: str, out: Path) -> None:
    console.print(
        f"{escape(title)}: {found.n_concept} concept and {found.n_random} random images per draw, "
        f"held out {found.n_concept_held} and {found.n_random_held}"
    )
    table = Table("classifier", "recall", "false positives", "AUROC")
    for way in found.ways:
        s = way.spread
        table.add_row(way.name, *(
            f"{value:.3f} ± {std:.3f}" for value, std in ((s.recall, s.recall_std),
            (s.false_positives, s.false_positives_std), (s.auroc, s.auroc_std))
        ))  # fmt: skip
    console.print(table)
    if found.tcav:
        console.print(_scores(found, classes))
    for line in found.cautions:
        tell(f"beware: {line}")
    tell(f"stored in {out}")
    raise typer.Exit(1 if any(way.unreliable for way in found.ways) else 0)


def _scores(found: Concept, classes: tuple[str, ...]) -> Table:
    columns = ("class", "n", "TCAV", "p", "TCAV of A-CAV", "p")
    theirs = {one.target: f"{statistics.fmean(one.scores):.2f}" for one in found.captum}
    table = Table(*columns, *(["captum"] if theirs else []))
    for one, other in zip(found.tcav, found.tcav_adversarial, strict=True):
        table.add_row(
            escape(classes[one.target]), str(one.n), f"{one.score:.2f}", f"{one.p:.2g}",
            f"{other.score:.2f}", f"{other.p:.2g}", *([theirs[one.target]] if theirs else []),
        )  # fmt: skip
    return table
