"""The survey's five trainings for smoothing on the bundled digits, in seconds: a figure for each,
also where no log of a published network is stored.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from torchproof import data as sets
from torchproof.data.dataset import Dataset
from torchproof.evaluate.survey.record import Share, Smoothed
from torchproof.nn import load_model
from torchproof.recipes import Plan, prepare, run
from torchproof.recipes.smoothed import SMALL, SMALL_THREAT
from torchproof.train import Settings
from torchproof.verify.smoothing import Smoothing
from torchproof.verify.smoothing.theories import NEYMAN_PEARSON

SIGMA, RADII = 0.25, (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
IMAGES, SAMPLES, MODEL = 100, 1000, "small-cnn"
AUGMENTATION, PRETRAINED = "Data augmentation", "SmoothAdv + pre-training"
RECIPES = {
    AUGMENTATION: "mnist-noise",
    "SmoothAdv": "mnist-smoothadv",
    PRETRAINED: "cifar10-smoothadv-pretrained",
    "MACER": "mnist-macer",
    "ADRE": "mnist-adre",
}
"""The survey's names, and the recipes whose small variants are run."""
_SETTINGS = Settings.of(epochs=20, batch_size=64, lr=2e-3, optimiser="adam", schedule="cyclic",
                        weight_decay=0.0, held_out=0)  # fmt: skip


def trained(out: Path, say: Callable[[str], None] = print) -> tuple[Smoothed, ...]:
    """One network of each training, certified by smoothing with the noise of its training on the
    first IMAGES test images, with SAMPLES samples and alpha = 0.001.

    The pre-trained one starts from the weights of noise augmentation (Salman et al. 2019 start from
    a larger data set). What is finished in `out` is read back.
    """
    test = sets.load("digits", split="test").take(IMAGES)
    return tuple(_cell(name, out / "trainings", test, say) for name in RECIPES)


def _cell(name: str, out: Path, test: Dataset, say: Callable[[str], None]) -> Smoothed:
    folder = _folder(out, name)
    start = str(_folder(out, AUGMENTATION)) if name == PRETRAINED else None
    plan = Plan(data="digits", model=MODEL, method=SMALL[RECIPES[name]], threat=SMALL_THREAT,
                settings=_SETTINGS, start=start)  # fmt: skip
    for _ in run(prepare(plan, None, torch.device("cpu")), folder, resume=folder.exists()):
        pass
    model, kept = load_model(str(folder)).model, folder / "smoothed"
    smoothing = Smoothing(SIGMA, n=SAMPLES)
    log = smoothing(model, test.x, test.y, seed=0, out=kept, resume=kept.exists()).log()
    say(f"{name}: average certified radius {log.acr:.3f} of {len(log)} digits")
    return Smoothed(
        log="", training=name, sigma=SIGMA, theory=NEYMAN_PEARSON,
        data=f"digits, {MODEL}, {SAMPLES:,} samples (radii up to {smoothing.largest:.2f})",
        acr=log.acr, radii=RADII,
        certified=tuple(Share.of(log.certified(r), len(log)) for r in RADII),
    )  # fmt: skip


def _folder(out: Path, name: str) -> Path:
    return out / RECIPES[name].split("-", 1)[1]
