"""Xie et al. 2019: networks with filters behind their stages, beside the same network with a block
that filters nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from torchproof.attack.combine import Attack
from torchproof.attack.pgd import PGD
from torchproof.attack.run import Run
from torchproof.core import keys
from torchproof.core.objectives import CrossEntropy
from torchproof.core.threats import Threat
from torchproof.core.threats import parse as parse_threat
from torchproof.data import Dataset, load
from torchproof.diagnose import feature_noise
from torchproof.nn import load_model
from torchproof.recipes import Comparison, Table
from torchproof.recipes.comparison import Line
from torchproof.recipes.small import SETTINGS
from torchproof.reproduce.experiment import Request, Row, Verdict
from torchproof.reproduce.figures import Figures
from torchproof.reproduce.study import MNIST, Study, points

IMAGES = 200  # whose features are looked at
NULL, NAKED, BEST = "null block", "no block", "non-local, softmax"
# Stages of the networks used here; a block stands behind one of them.
STAGES = ("act1", "act2", "act3", "layer1", "layer2", "layer3", "layer4")


def judge(lines: Mapping[str, Line], _: Sequence[Row]) -> tuple[Verdict, str]:
    """By the filter that is the best of the paper, against the null block: shown where the whole
    interval of the gain, paired by seed, is above 0, contradicted where it is below. One seed has
    no interval and shows nothing.
    """
    others = [line for name, line in lines.items() if name not in (NULL, BEST)]
    text = f"robust accuracy against the {NULL}: {BEST} {_gain(lines[BEST])}; " + ", ".join(
        f"{line.name} {_gain(line)}" for line in others
    )
    found = lines[BEST].difference
    if found is None or found.ci95 is None or found.ci95[0] <= 0 <= found.ci95[1]:
        return "does not show at this scale", text
    return ("shows" if found.mean > 0 else "contradicts"), text


def _gain(line: Line) -> str:
    found = line.difference
    if found is None:
        return "is the reference"
    low, high = found.ci95 or (math.nan, math.nan)
    interval = "" if found.ci95 is None else f" ({100 * low:+.1f} to {100 * high:+.1f})"
    return points(found.mean) + interval


class Noise(Figures):
    """Mean feature noise of a network's images of PGD-20, by layer."""

    n: int
    ratios: dict[str, float]


def inspected(request: Request, table: Table, found: Comparison) -> tuple[Row, ...]:
    """What PGD-20 misses of the suite, and the feature noise of every stage: behind the block, and
    before it where there is one.
    """
    rows: list[Row] = []
    for line in found.lines:
        cells = list(line.cells.values())
        over = [cell.pgd - cell.robust for cell in cells]
        what = f"{line.name}: PGD-20 minus {found.suite}"
        rows.append(Row.per_seed(what, over, sum(cell.n for cell in cells), least=-1.0))
    for name, plan in table.rows.items():
        test = load(plan.data, data_dir=request.data_dir, split="test")
        test, threat = test.take(min(IMAGES, len(test))), parse_threat(str(plan.threat))
        each = [
            _noise(request.out / "runs" / name / f"seed{seed}", test, threat, seed)
            for seed in table.seeds
        ]
        for layer in each[0].ratios:
            ratios = [one.ratios[layer] for one in each]
            count = sum(one.n for one in each)
            rows.append(Row.per_seed(f"{name}: feature noise, {layer}", ratios, count, ""))
    return tuple(rows)


def _noise(folder: Path, test: Dataset, threat: Threat, seed: int) -> Noise:
    path = folder / "feature_noise.json"
    if not path.exists():
        measured(load_model(str(folder)).model, test, threat, seed).write(path)
    return Noise.read(path)


def measured(model: nn.Module, test: Dataset, threat: Threat, seed: int) -> Noise:
    """The feature noise of the last iterates of PGD-20, mean over the images."""
    model.requires_grad_(False)
    names = _stages(model)
    run = Run(keys.seed_of(seed, "feature noise"), patience=math.inf, last=True)
    attack = Attack(threat, CrossEntropy(), PGD(20, 0.25))
    value = attack(model, test.x, test.y, run=run).value
    assert isinstance(value, Tensor)  # a Threat perturbs images
    ratios = feature_noise(model, test.x, test.x + value, list(names))
    return Noise(n=len(test), ratios={names[k]: float(v.mean()) for k, v in ratios.items()})


def _stages(model: nn.Module) -> dict[str, str]:
    """Layers of the network -> what they are called in the table."""
    modules = dict(model.named_modules())
    names: dict[str, str] = {}
    for stage in STAGES:
        if f"net.{stage}" in modules:
            blocked = f"net.{stage}.block" in modules
            names |= {f"net.{stage}.layer": f"{stage} before the block"} if blocked else {}
            names[f"net.{stage}"] = f"{stage} behind the block" if blocked else stage
    return names


def _row(block: str = "") -> dict[str, object]:
    """A row with its network: `block` behind one stage of the small one, behind all of the
    ResNet-18.
    """
    small, paper = (
        f"insert={{{', '.join(f'{stage!r}: {block!r}' for stage in stages)}}}, " if block else ""
        for stages in (("act2",), ("layer1", "layer2", "layer3", "layer4"))
    )
    mean, std = "(0.4914, 0.4822, 0.4465)", "(0.2471, 0.2435, 0.2616)"
    model = f"resnet18({paper}mean={mean}, std={std})"
    return {
        "model": f"small-cnn({small.removesuffix(', ')})",
        "paper": {"recipe": "cifar10-feature-denoising", "model": model},
    }


denoise_study = Study(
    name="denoise",
    paper="Xie et al. 2019, arXiv 1812.03411",
    claim="adversarially trained networks whose features are filtered withstand more, by the "
    "filter and not by the 1x1 convolution behind it",
    rows={
        NULL: _row("NullFilter"),
        NAKED: _row(),
        BEST: _row("NonLocal(form='softmax')"),
        "non-local, dot": _row("NonLocal(form='dot')"),
        "bilateral, softmax": _row("Bilateral(form='softmax')"),
        "bilateral, dot": _row("Bilateral(form='dot')"),
        "mean": _row("MeanFilter"),
        "median": _row("MedianFilter"),
    },
    judge=judge,
    base={
        **MNIST, "n": 3000, "method": "AT(steps=5, length=0.3, ramp=0.2)",
        "settings": {**SETTINGS, "epochs": 5, "lr": 4e-3, "batch_size": 50, "held_out": 200},
    },
    n=300,
    published={},
    more=inspected,
)  # fmt: skip
