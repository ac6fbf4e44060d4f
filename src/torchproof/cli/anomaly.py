"""`torchproof anomaly fit` and `torchproof anomaly score`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

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
from torchproof.anomaly.detector import Detector, load
from torchproof.anomaly.figures import Told, told, told_apart
from torchproof.anomaly.fit import CHECKPOINT
from torchproof.anomaly.fit import fit as train
from torchproof.anomaly.itsr import ITSR
from torchproof.anomaly.learner import Setting
from torchproof.anomaly.networks import Architecture, Kind
from torchproof.anomaly.rejection import EarlyRejection
from torchproof.anomaly.stages import Method, Plain
from torchproof.cli import options
from torchproof.cli.anomaly_images import Picked, cut, mask, pick
from torchproof.cli.options import tell
from torchproof.core.errors import FileError, unknown
from torchproof.core.files import write
from torchproof.data import load as load_data
from torchproof.evaluate.versions import versions
from torchproof.report.anomaly_sheet import SHOWN, fit_sheet, score_sheet, warnings_of
from torchproof.report.sheet import write_sheet

SCHEMA = "torchproof.anomaly-scores/1"
FIT_SCHEMA = "torchproof.anomaly-fit/1"
METHODS = ("plain", "adversarial", "itsr", "reject")

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
    with rejection by latents. Writes the detector, fit.json, and of an autoencoder fit.html with
    the rejected images.
    """
    known = (*METHODS, *BASELINES)
    if method not in known and not method.startswith(PYOD):
        raise unknown("method", method, [*known, "pyod:ECOD"])
    whole = load_data(data, data_dir=data_dir, split=split)
    kept, held = cut(pick(whole, classes, n, size), hold_out, seed)
    _free(out, resume, method in METHODS)
    about = {
        "data": data, "data_sha256": whole.sha256, "classes": classes, "split": split,
        "images": len(kept.x), "method": method, "seed": seed, "versions": versions(),
        "thresholds_from": "training images" if held is None else "held-out images",
        "command": options.command_line(),
    }  # fmt: skip
    if method in METHODS:
        setting = _setting(method, network, latent, width, batch_size, lr, seed)
        there = Picked(kept.x.to(options.device_of(device)), kept.rows)
        plan = _method(method, epochs, share)
        about |= _trained(there, held, plan, setting, about, out, resume)
    else:
        fit_baseline(method, kept.x, None if held is None else held.x, seed=seed).save(out)
        tell(f"{method} on {len(kept.x)} images")
    _write(out / "fit.json", {"schema": FIT_SCHEMA, **about})
    tell(f"stored in {out}")


def _trained(
    kept: Picked, held: Picked | None, method: Method, setting: Setting, about: Mapping[str, Any],
    out: Path, resume: bool,
) -> dict[str, Any]:  # fmt: skip
    """Trains, stores detector and page; what is to be told of the rejections."""
    fitted = train(kept.x, method, setting, out=out, resume=resume)
    rejected = (fitted.last < 1).nonzero()[:, 0].cpu()
    more = {
        "epochs": fitted.learner.epochs,
        "rejected_rows": kept.rows[rejected].tolist(),
        "rejected_weights": fitted.last.cpu()[rejected].tolist(),
        "stages": {name: one and asdict(one) for name, one in fitted.premises.items()},
    }
    base = kept.x[fitted.last > 0] if held is None else held.x.to(kept.x.device)
    fitted.detector(base).save(out, {"training": {**about, **more}})
    page = fit_sheet(fitted, kept.x, kept.rows.tolist(), {**about, **more}, "fit.json")
    write_sheet(page, out / "fit.html")
    tell(
        f"{about['method']} on {len(kept.x)} images, {fitted.learner.epochs} epochs; "
        f"{len(rejected)} rejected"
    )
    for caution in warnings_of(fitted):
        tell(f"caution: {caution}")
    return more


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
    out: Annotated[Path, typer.Option(help="Where record, page and pictures go.")] = Path(
        "runs/anomaly-scores"
    ),
    device: options.Device = None,
    data_dir: options.DataDir = None,
) -> None:
    """Score images: higher is more suspicious, above 0 is an anomaly.

    Writes scores.json, scores.html and its pictures as PNG and SVG: a histogram and, of an
    autoencoder, heat maps of the most suspicious images.
    With the normal classes named by --normal, all others count as anomalies, and the AUROC and the
    balanced accuracy are told.
    """
    found = load_data(data, data_dir=data_dir, split=split)
    found = found if n is None else found.take(n)
    truth = mask(found, normal).logical_not() if normal else None
    there = options.device_of(device)
    detector = _stored(model, there)
    x = pick(found, size=size).x.to(there)
    suspicion = detector.suspicion(x).cpu()
    judged = None if truth is None else _told(detector, x, suspicion, truth)
    about = {
        "model": str(model), "data": data, "data_sha256": found.sha256, "split": split,
        "n": len(found), "versions": versions(), "command": options.command_line(),
    }  # fmt: skip
    content = {
        "schema": SCHEMA, **about, "suspicion": suspicion.tolist(),
        "anomaly": (suspicion > 0).tolist(), **_details(detector, x),
        **({} if judged is None else {"told": asdict(judged)}),
    }  # fmt: skip
    _write(out / "scores.json", content)
    shown = _most(detector, x, suspicion)
    page = score_sheet(suspicion, about, "scores.json", truth, judged, shown)
    write_sheet(page, out / "scores.html")
    tell(f"{int((suspicion > 0).sum())} of {len(found)} images are anomalies")
    if judged is not None:
        tell(
            f"AUROC {judged.auroc:.3f} ({judged.ci95[0]:.3f} to {judged.ci95[1]:.3f}); anomalies "
            f"found {100 * judged.found:.1f} %, normal images left alone "
            f"{100 * judged.left_alone:.1f} %, balanced accuracy {100 * judged.balanced:.1f} %"
        )
    tell(f"stored in {out}")


def _stored(folder: Path, device: torch.device) -> Detector | Baseline:
    """Raises FileError, also for a folder that holds both kinds."""
    baseline = (folder / FILE).exists()
    if baseline and (folder / "model.safetensors").exists():
        given = f"{folder}, which holds both a baseline and an autoencoder"
        raise FileError(given, "one of them", "fit again, into a new folder")
    return load_baseline(folder) if baseline else load(folder, device)


def _told(detector: Detector | Baseline, x: Tensor, suspicion: Tensor, truth: Tensor) -> Told:
    if isinstance(detector, Detector):
        scores = detector.scores(x)
        return told_apart(scores, truth.to(scores.error.device), detector.rule)
    return told(suspicion, truth)


def _details(detector: Detector | Baseline, x: Tensor) -> dict[str, Any]:
    """Both scores of an autoencoder, and its thresholds."""
    if not isinstance(detector, Detector):
        return {"threshold": detector.threshold}
    scores = detector.scores(x)
    return {
        "error": scores.error.tolist(), "likelihood": scores.likelihood.tolist(),
        "rule": asdict(detector.rule),
    }  # fmt: skip


def _most(
    detector: Detector | Baseline, x: Tensor, suspicion: Tensor
) -> tuple[Tensor, Tensor, list[int]] | None:
    """The most suspicious images, their heat maps and rows; none of a baseline."""
    if not isinstance(detector, Detector):
        return None
    order = suspicion.argsort(descending=True)[:SHOWN]
    chosen = x[order.to(x.device)]
    return chosen, detector.heat_maps(chosen), order.tolist()


def _setting(
    method: str, network: str, latent: int | None, width: int, batch_size: int, lr: float, seed: int
) -> Setting:
    adversarial = method in ("adversarial", "itsr")
    some = latent or (2 if adversarial else 32)
    how = Architecture(_kind(network), some, width, batch_norm=adversarial)
    return Setting(how, adversarial, batch_size, lr, seed)


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


def _free(out: Path, resume: bool, autoencoder: bool) -> None:
    """Raises FileError for a folder that holds a fit which is not to be resumed, or is of the other
    kind.
    """
    kinds = ((FILE,), (CHECKPOINT, "model.safetensors"))
    taken = [f for f in (*kinds[0], *kinds[1]) if (out / f).exists()]
    other = [f for f in kinds[not autoencoder] if f in taken]
    if other:
        given = f"{out}, which holds {other[0]}, of another kind of method"
        raise FileError(given, "a new folder", "choose another --out")
    if taken and not resume:
        given = f"{out}, which holds {taken[0]}"
        raise FileError(given, "a new folder", "add --resume, or choose another --out")


def _write(path: Path, content: Mapping[str, Any]) -> None:
    write(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())
