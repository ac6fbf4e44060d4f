"""Of `reproduce anomaly`: the picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torchproof.report.anomaly_plots import Curves, curves_on, scores_on
from torchproof.report.pictures import blank, content, plainly
from torchproof.reproduce.anomaly_figures import (
    AAE,
    LATENTS,
    METHODS,
    PLAIN,
    REJECT,
    TOGETHER,
    Found,
    Point,
)

CHANCE = 0.5  # an AUROC that tells nothing
NAMES = {"lof": "local outlier factor"}


@plainly
def picture(parts: Mapping[str, Found]) -> bytes:
    """Two rows for each kind of images: errors over epochs, what that does to decisions, what
    contamination does; the methods, whom they reject, latent likelihoods. A PNG.
    """
    figure = blank(14.5, 7.8 * len(parts))
    bands = figure.subfigures(len(parts), 1, squeeze=False, hspace=0.04)
    for (band,), found in zip(bands, parts.values(), strict=True):
        band.suptitle(found.about, fontweight="bold", fontsize=13)
        above, below = band.subplots(2, 3, squeeze=False)
        _over_epochs(above, found)
        _over_shares(above[2], found)
        _methods(below[0], found)
        _rejected(below[1], found)
        _latents(below[2], found)
    return content(figure, dpi=85)


def _over_epochs(axes: Any, found: Found) -> None:
    marks = [point.epochs for point in found.of(PLAIN)[0].points]
    ratios: Curves = {
        f"{100 * share:g} % outliers": {
            epochs: [run.at(epochs).ratio for run in found.of(PLAIN, share)] for epochs in marks
        }
        for share in found.shares
        if share
    }
    curves_on(axes[0], ratios, "epochs", "outlier / normal training error", (1.0, TOGETHER), True)
    _legend(axes[0], 3)
    what = {
        "AUROC": "auroc",
        "balanced accuracy, held-out threshold": "balanced_held",
        "balanced accuracy, paper's threshold": "balanced",
    }
    quality: Curves = {
        name: {e: [_value(run.at(e), field) for run in found.of(PLAIN)] for e in marks}
        for name, field in what.items()
    }
    curves_on(axes[1], quality, "epochs", f"on test images, {100 * found.share:g} % outliers",
              log=True)  # fmt: skip
    _legend(axes[1], 1)


def _over_shares(axes: Any, found: Found) -> None:
    what = {
        f"AUROC, {found.early} epochs": ("auroc", found.early),
        f"AUROC, {found.late} epochs": ("auroc", found.late),
        f"balanced accuracy, {found.early} epochs": ("balanced", found.early),
        f"balanced accuracy, {found.late} epochs": ("balanced", found.late),
    }
    curves: Curves = {
        name: {
            100 * share: [_value(run.at(epochs), field) for run in found.of(PLAIN, share)]
            for share in found.shares
        }
        for name, (field, epochs) in what.items()
    }
    curves_on(axes, curves, "outliers in the training set, %", "on test images (paper's rule)")
    _legend(axes, 2)


def _value(point: Point, field: str) -> float:
    return float(getattr(point, field))


def _methods(axes: Any, found: Found) -> None:
    """A dot per seed and a stroke at the mean AUROC; baselines below, in grey."""
    values = {name: [run.end.auroc for run in found.of(name)] for name in METHODS}
    for name in found.areas[0].areas:
        values[NAMES.get(name, name)] = [one.areas[name] for one in found.areas]
    for place, (name, areas) in enumerate(values.items()):
        colour = "#4c78a8" if name in METHODS else "#8a8f98"
        middle = sum(areas) / len(areas)
        axes.plot([middle, middle], [-place - 0.3, -place + 0.3], color=colour, linewidth=2.5)
        axes.scatter(areas, [-place] * len(areas), color=colour, s=16, alpha=0.7, zorder=3)
    axes.set_yticks([-place for place in range(len(values))], list(values), fontsize="small")
    axes.axvline(CHANCE, color="0.55", linestyle=":", linewidth=1)
    lowest = min(min(areas) for areas in values.values())
    axes.set_xlim(min(CHANCE, lowest) - 0.03, 1.01)
    axes.set_xlabel(f"AUROC on test images, {100 * found.share:g} % outliers in training")
    axes.grid(alpha=0.3)


def _rejected(axes: Any, found: Found) -> None:
    """Outliers among the candidates of each round of ITSR; beside it early rejection, which has one
    round.
    """
    itsr, reject = found.of(LATENTS), found.of(REJECT)
    rounds = range(1, len(itsr[0].true) - 1)
    curves: Curves = {
        "ITSR, candidates that are outliers": {
            r: [run.true[r] / max(1, run.rejected[r]) for run in itsr] for r in rounds
        },
        "ITSR, outliers that are candidates": {
            r: [run.true[r] / run.planted for run in itsr] for r in rounds
        },
    }
    early = {
        "early rejection, rejected that are outliers": [
            run.true[-1] / max(1, run.rejected[-1]) for run in reject
        ],
        "early rejection, outliers that are rejected": [
            run.true[-1] / run.planted for run in reject
        ],
    }
    for colour, (name, shares) in zip(("C2", "C3"), early.items(), strict=True):
        _level(axes, shares, colour, name)
    curves_on(axes, curves, "round of ITSR (dotted: the contamination)", "share", (found.share,))
    axes.set_ylim(-0.02, 1.02)
    _legend(axes, 1)


def _legend(axes: Any, columns: int) -> None:
    """Above the panel, where it hides no band."""
    axes.legend(
        loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=columns, frameon=False,
        fontsize="small", columnspacing=1.2,
    )  # fmt: skip


def _level(axes: Any, values: Sequence[float], colour: str, name: str) -> None:
    """The mean over seeds as a line, in a band from the lowest to the highest."""
    axes.axhspan(min(values), max(values), color=colour, alpha=0.15, linewidth=0)
    axes.axhline(sum(values) / len(values), color=colour, linestyle="--", label=name)


def _latents(axes: Any, found: Found) -> None:
    runs = found.of(AAE)
    normal = [v for run in runs for v in run.likelihood_normal]
    scores_on(axes, normal, [v for run in runs for v in run.likelihood_outlier],
              "AAE: log p(z) of training images, nats")  # fmt: skip
