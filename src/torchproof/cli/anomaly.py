"""`torchproof anomaly fit` and `torchproof anomaly score`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer
from torch import Tensor

from torchproof.anomaly.baselines import (
    BASELINES,
    FILE,
    PYOD,
    Baseline,
    fit_baseline,
    load_baseline,
)
from torchproof.anomaly.contamination import shrunk
from torchproof.anomaly.detector import Detector, load
from torchproof.anomaly.figures import auroc, told_apart
from torchproof.anomaly.fit import CHECKPOINT
from torchproof.anomaly.fit import fit as train
from torchproof.anomaly.itsr import ITSR
from torchproof.anomaly.learner import Setting
from torchproof.anomaly.networks import Architecture, Kind
from torchproof.anomaly.rejection import EarlyRejection
from torchproof.anomaly.stages import Method, Plain
from torchproof.cli import options
from torchproof.cli.options import tell
from torchproof.core.errors import FileError, InputError, unknown
from torchproof.core.files import write
from torchproof.core.keys import permutation
from torchproof.data import load as load_data
from torchproof.data.dataset import Dataset
from torchproof.report.anomaly_plots import draw_heat_maps, draw_scores
from torchproof.report.pictures import save

SCHEMA = "torchproof.anomaly-scores/1"
METHODS = ("plain", "adversarial", "itsr", "reject")
SHOWN = 8

app = typer.Typer(
    help="Train a detector of anomalies on images that may hold some, and score others.",
    no_args_is_help=True,
)

Classes = Annotated[str, typer.Option(help="Classes by name or number, with commas between them.")]


@app.command("fit")
def fit(
    data: options.Data = "digits",
    classes: Classes = "",
    split: Annotated[str, typer.Option(help="train, test or all.")] = "train",
    n: options.First = None,
    method: Annotated[
        str,
        typer.Option(help=f"One of {', '.join((*METHODS, *BASELINES))}, pyod:CLASS."),
    ] = "reject",
    network: Annotated[str, typer.Option(help="dense or conv.")] = "dense",
    width: Annotated[int, typer.Option(min=1)] = 256,
    latent: Annotated[
        int | None, typer.Option(min=1, help="Default 32; 2 for adversarial ones.")
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="In all; ITSR gets shares of them.")] = 100,
    share: Annotated[
        float, typer.Option(help="Of the images: so many are rejected (nu, for itsr).")
    ] = 0.06,
    batch_size: Annotated[int, typer.Option("--batch-size", min=2)] = 128,
    lr: Annotated[float, typer.Option(help="Of Adam.")] = 1e-3,
    size: Annotated[
        int | None, typer.Option(min=1, help="Shrink images to so many pixels.")
    ] = None,
    hold_out: Annotated[
        float, typer.Option("--hold-out", help="Share kept for thresholds; 0: as in the paper.")
    ] = 0.2,
    out: Annotated[Path, typer.Option(help="Where the detector goes.")] = Path("runs/anomaly"),
    seed: options.Seed = 0,
    device: options.Device = None,
    data_dir: options.DataDir = None,
    resume: options.Resume = False,
) -> None:
    """Train a detector on images that may hold outliers; no labels are used.

    --classes says which classes the images are of, by default all. `reject` is a plain autoencoder
    that drops the worst reconstructed images early; `itsr` is the published adversarial autoencoder
    with rejection by latents.
    """
    known = (*METHODS, *BASELINES)
    if method not in known and not method.startswith(PYOD):
        raise unknown("method", method, [*known, "pyod:ECOD"])
    found = _chosen(load_data(data, data_dir=data_dir, split=split), classes)
    x = _sized(found if n is None else found.take(n), size)
    images, held = _cut(x, hold_out, seed)
    _free(out, resume)
    if method not in METHODS:
        fit_baseline(method, images, held, seed=seed).save(out)
        tell(f"{method} on {len(images)} images: stored in {out}")
        return
    adversarial = method in ("adversarial", "itsr")
    how = Architecture(
        _kind(network), latent or (2 if adversarial else 32), width, batch_norm=adversarial
    )
    setting = Setting(how, adversarial, batch_size, lr, seed)
    there = options.device_of(device)
    images, held = images.to(there), None if held is None else held.to(there)
    fitted = train(images, _method(method, epochs, share), setting, out=out, resume=resume)
    kept = images[fitted.last > 0] if held is None else held
    rejected = (fitted.last < 1).nonzero()[:, 0].tolist()
    more = {
        "training": {
            "data": data, "classes": classes, "split": split, "images": len(images),
            "method": method, "epochs": fitted.learner.epochs, "rejected_rows": rejected,
            "thresholds_from": "training images" if held is None else "held-out images",
            "command": options.command_line(),
        }
    }  # fmt: skip
    fitted.detector(kept).save(out, more)
    tell(
        f"{method} on {len(images)} images, {fitted.learner.epochs} epochs; "
        f"{len(rejected)} rejected"
    )
    cautions = {one.warning for one in fitted.premises.values() if one and one.warning}
    for caution in cautions:
        tell(f"caution: {caution}")
    tell(f"stored in {out}")


@app.command("score")
def score(
    model: Annotated[Path, typer.Argument(help="A folder that `anomaly fit` wrote.")],
    data: options.Data = "digits",
    normal: Classes = "",
    split: Annotated[str, typer.Option(help="train, test or all.")] = "test",
    n: options.First = None,
    size: Annotated[
        int | None, typer.Option(min=1, help="Shrink images to so many pixels.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where scores.json and the pictures go.")] = Path(
        "runs/anomaly-scores"
    ),
    device: options.Device = None,
    data_dir: options.DataDir = None,
) -> None:
    """Score images: higher is more suspicious, above 0 is an anomaly.

    Writes scores.json, scores.png and, of an autoencoder, heat-maps.png of the most suspicious.
    With the normal classes named by --normal, all others count as anomalies, and the AUROC and the
    balanced accuracy are told.
    """
    found = load_data(data, data_dir=data_dir, split=split)
    found = found if n is None else found.take(n)
    truth = None if not normal else ~_mask(found, normal)
    detector: Detector | Baseline
    detector = load_baseline(model) if (model / FILE).exists() else load(model)
    there = options.device_of(device)
    if isinstance(detector, Detector):
        detector.network.to(there)
    x = _sized(found, size).to(there)
    suspicion = detector.suspicion(x).cpu()
    content: dict[str, object] = {
        "schema": SCHEMA, "model": str(model), "data": data, "split": split, "n": len(found),
        "command": options.command_line(), "suspicion": suspicion.tolist(),
        "anomaly": (suspicion > 0).tolist(),
    }  # fmt: skip
    tell(f"{int((suspicion > 0).sum())} of {len(found)} images are anomalies")
    if isinstance(detector, Detector):
        scores = detector.scores(x)
        content |= {"error": scores.error.tolist(), "likelihood": scores.likelihood.tolist()}
        order = suspicion.argsort(descending=True)[:SHOWN]
        titles = [f"{row}: {suspicion[row]:.1f}" for row in order.tolist()]
        chosen = x[order.to(there)]
        save(draw_heat_maps(chosen, detector.heat_maps(chosen), titles), out / "heat-maps.png")
    if truth is not None:
        content |= _told(detector, x, suspicion, truth)
    kinds = (suspicion, suspicion[:0]) if truth is None else (suspicion[~truth], suspicion[truth])
    write(out / "scores.json", (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())
    save(draw_scores(kinds[0].tolist(), kinds[1].tolist(), "suspicion", 0.0), out / "scores.png")
    tell(f"stored in {out}")


def _told(
    detector: Detector | Baseline, x: Tensor, suspicion: Tensor, truth: Tensor
) -> dict[str, object]:
    """How well the kinds are told apart, said and answered."""
    area = auroc(suspicion, truth)
    flags = suspicion > 0
    rates = float(flags[truth].float().mean()), 1 - float(flags[~truth].float().mean())
    balanced = sum(rates) / 2
    tell(
        f"AUROC {area:.3f}; anomalies found {100 * rates[0]:.1f} %, normal images left alone "
        f"{100 * rates[1]:.1f} %, balanced accuracy {100 * balanced:.1f} %"
    )
    if isinstance(detector, Detector):
        scores = detector.scores(x)
        return {"told": asdict(told_apart(scores, truth.to(scores.error.device), detector.rule))}
    return {
        "told": {"found": rates[0], "left_alone": rates[1], "balanced": balanced, "auroc": area}
    }


def _method(name: str, epochs: int, share: float) -> Method:
    """ITSR in the published proportions: 500, ten times 100, 1000."""
    if name == "itsr":
        part = max(1, round(epochs / 25))
        return ITSR(5 * part, 10, part, 10 * part, share=share)
    if name == "reject":
        early = max(1, round(epochs / 10))
        return EarlyRejection(early, max(1, epochs - early), share)
    return Plain(epochs)


def _kind(name: str) -> Kind:
    kinds: dict[str, Literal["dense", "conv"]] = {"dense": "dense", "conv": "conv"}
    if name not in kinds:
        raise unknown("network", name, kinds)
    return kinds[name]


def _mask(found: Dataset, classes: str) -> Tensor:
    """Which images are of these classes: (N,), bool; raises UnknownName."""
    labels = []
    for word in classes.split(","):
        name = word.strip()
        if name in found.classes:
            labels.append(found.classes.index(name))
        elif name.isdigit() and int(name) < len(found.classes):
            labels.append(int(name))
        else:
            raise unknown("class", name, found.classes)
    return torch.isin(found.y, torch.tensor(labels))


def _chosen(found: Dataset, classes: str) -> Dataset:
    if not classes:
        return found
    rows = _mask(found, classes).nonzero()[:, 0]
    return found.subset(rows)


def _sized(found: Dataset, size: int | None) -> Tensor:
    return found.x if size is None else shrunk(found.x, size)


def _cut(x: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor | None]:
    """Images for training, and those held out, chosen by the seed."""
    if not 0 <= share <= 0.5:
        raise InputError(f"--hold-out {share:g}", "a share from 0 to 0.5", "try 0.2")
    held = round(share * len(x))
    if not held:
        return x, None
    if held < 2 or len(x) - held < 2:
        given = f"{len(x)} images, {held} of them held out"
        raise InputError(given, "2 or more in each part", "give more images, or --hold-out 0")
    order = permutation(len(x), seed, "held out")
    return x[order[held:]], x[order[:held]]


def _free(out: Path, resume: bool) -> None:
    taken = [f for f in (FILE, CHECKPOINT, "model.safetensors") if (out / f).exists()]
    if taken and not resume:
        given = f"{out}, which holds {taken[0]}"
        raise FileError(given, "a new folder", "add --resume, or choose another --out")
