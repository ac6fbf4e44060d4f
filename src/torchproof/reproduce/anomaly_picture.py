"""Of `reproduce anomaly`: the picture."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from torchproof.report.anomaly_plots import Curves, curves_on, scores_on
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


def picture(parts: Mapping[str, Found]) -> bytes:
    """Two rows for each kind of images: errors over epochs, what that does to decisions, what
    contamination does; the methods, whom they reject, latent likelihoods. A PNG.
    """
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        figure = Figure(figsize=(14.5, 8 * len(parts)), layout="constrained")
        every = figure.subplots(2 * len(parts), 3, squeeze=False)
        for number, found in enumerate(parts.values()):
            above, below = every[2 * number : 2 * number + 2]
            above[0].set_title(found.about, loc="left", fontweight="bold")
            _over_epochs(above, found)
            _over_shares(above[2], found)
            _methods(below[0], found)
            _rejected(below[1], found)
            _latents(below[2], found)
        drawn = io.BytesIO()
        figure.savefig(drawn, format="png", dpi=110)
        return drawn.getvalue()


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
    curves_on(axes, curves, "outliers in the training set, %", "plain, paper's threshold")


def _value(point: Point, field: str) -> float:
    return float(getattr(point, field))


def _methods(axes: Any, found: Found) -> None:
    """A dot per seed, a bar for the mean of the AUROC; baselines below."""
    values = {name: [run.end.auroc for run in found.of(name)] for name in METHODS}
    for name in found.areas[0].areas:
        values[name] = [one.areas[name] for one in found.areas]
    for place, (name, areas) in enumerate(values.items()):
        colour = "#4c78a8" if name in METHODS else "#8a8f98"
        axes.barh(-place, sum(areas) / len(areas), 0.62, color=colour, alpha=0.35)
        axes.scatter(areas, [-place] * len(areas), color=colour, s=13, zorder=3)
    axes.set_yticks([-place for place in range(len(values))], list(values), fontsize="small")
    lowest = min(min(areas) for areas in values.values())
    axes.set_xlim(max(0.0, min(0.5, lowest) - 0.05), 1.0)
    axes.set_xlabel(f"AUROC on test images, {100 * found.share:g} % outliers in training")
    axes.grid(axis="x", alpha=0.3)


def _rejected(axes: Any, found: Found) -> None:
    """Outliers among the candidates of each round of ITSR, and among those rejected early."""
    itsr, reject = found.of(LATENTS), found.of(REJECT)
    rounds = range(1, len(itsr[0].true) - 1)
    early = [run.true[-1] / run.rejected[-1] for run in reject]
    curves: Curves = {
        "ITSR, candidates that are outliers": {
            r: [run.true[r] / max(1, run.rejected[r]) for run in itsr] for r in rounds
        },
        "ITSR, outliers that are candidates": {
            r: [run.true[r] / run.planted for run in itsr] for r in rounds
        },
        "early rejection, rejected that are outliers": {r: early for r in rounds},
        "early rejection, outliers that are rejected": {
            r: [run.true[-1] / run.planted for run in reject] for r in rounds
        },
    }
    curves_on(axes, curves, "round of ITSR (dotted: the contamination)", "share", (found.share,))
    axes.set_ylim(-0.02, 1.02)


def _latents(axes: Any, found: Found) -> None:
    runs = found.of(AAE)
    normal = [v for run in runs for v in run.likelihood_normal]
    scores_on(axes, normal, [v for run in runs for v in run.likelihood_outlier],
              "AAE: log p(z) of training images, nats")  # fmt: skip
