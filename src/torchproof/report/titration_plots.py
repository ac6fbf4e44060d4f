"""Pictures of noise responses: the curve of one network and where its answers go, curves of groups
of networks with bands, ROC curves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from torchproof.backdoor.titrate import MODERATE, Titration
from torchproof.core.errors import InputError
from torchproof.core.metrics import clopper_pearson
from torchproof.core.ranking import Roc
from torchproof.report.figures import MARKERS
from torchproof.report.pictures import blank, plainly


@plainly
def draw(
    titration: Titration, classes: Sequence[str] = (), band: tuple[float, float] = MODERATE,
    roc: Roc | None = None,
) -> Figure:  # fmt: skip
    """T against noise with its 95 % interval, the share among changed answers, and below it how
    often each class is answered; beside them the ROC of the bank that judges it, where one does.
    """
    figure = blank(6.4 if roc is None else 11.2, 6.0)
    left: Any = figure
    if roc is not None:
        halves: Any = figure.subfigures(1, 2, width_ratios=(6.4, 4.8))
        left, axes = halves[0], halves[1].subplots()
        roc_on(axes, {"AUROC": roc})
        axes.set_title("networks of the bank, told apart by the rule", fontsize="medium")
    above, below = left.subplots(2, 1, height_ratios=(3, 2.6))
    _noise_axis(above, [titration], band)
    total = titration.setting.n * titration.setting.draws
    low, high = zip(*(clopper_pearson(sum(row), total) for row in titration.flips), strict=True)
    above.fill_between(titration.sigmas, low, high, color="C0", alpha=0.2, linewidth=0)
    above.plot(titration.sigmas, titration.share, "o-", color="C0", label="of all answers (T)")
    above.plot(
        titration.sigmas, titration.share_of_flips, "s--", color="C1", label="of changed answers"
    )
    above.set_ylabel(f"confident changes\n(above {titration.setting.gamma:g})")
    above.legend(loc="upper left", fontsize="small")
    _classes(left, below, titration, classes)
    return figure


def _classes(figure: Any, axes: Axes, titration: Titration, classes: Sequence[str]) -> None:
    counts = np.array(titration.histogram, dtype=float)
    image = axes.imshow(
        (counts / counts.sum(1, keepdims=True)).T, aspect="auto", cmap="viridis", vmin=0
    )
    axes.set_xticks(range(len(titration.sigmas)), [f"{s:g}" for s in titration.sigmas])
    few = titration.classes <= 20
    names = [str(classes[k] if k < len(classes) else k) for k in range(titration.classes)]
    axes.set_yticks(range(titration.classes) if few else [], names if few else [], fontsize=8)
    axes.set_xlabel("σ of the noise (input units)")
    axes.set_ylabel("answer")
    figure.colorbar(image, ax=axes, label="share of answers")


def _noise_axis(axes: Axes, curves: Sequence[Titration], band: tuple[float, float]) -> None:
    """A logarithmic axis of noise, with the band that is judged shaded."""
    ends = [s for curve in curves for s in curve.sigmas if s > 0]
    axes.set_xscale("log")
    axes.set_xlim(min(ends), max(ends))
    axes.axvspan(*band, color="0.92", zorder=0, linewidth=0)
    ticks = sorted({s for s in curves[0].sigmas if s > 0})
    axes.set_xticks(ticks, [f"{s:g}" for s in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("σ of the noise (input units)")
    axes.set_ylim(0, 1)
    axes.grid(alpha=0.3)


@plainly
def draw_groups(
    groups: Mapping[str, Sequence[Titration]], band: tuple[float, float] = MODERATE
) -> Figure:
    """The mean curve of each group of networks, in a band from its lowest to its highest.

    Raises InputError for no groups, an empty one, and curves at different noise.
    """
    figure = blank(6.4, 4.2)
    groups_on(figure.add_subplot(), groups, band)
    return figure


def groups_on(
    axes: Axes, groups: Mapping[str, Sequence[Titration]], band: tuple[float, float] = MODERATE
) -> None:
    """`draw_groups` into axes of a larger picture."""
    every = [curve for curves in groups.values() for curve in curves]
    if not all(groups.values()) or len({curve.sigmas for curve in every}) != 1:
        given = f"groups of {[len(curves) for curves in groups.values()]} curves"
        remedy = "titrate all networks with the same sigmas"
        raise InputError(given, "at least one curve in each, all at the same noise", remedy)
    _noise_axis(axes, every, band)
    for number, (name, curves) in enumerate(groups.items()):
        shares = np.array([curve.share for curve in curves])
        colour = "0.25" if number == 0 else f"C{number - 1}"
        axes.fill_between(
            curves[0].sigmas, shares.min(0), shares.max(0), color=colour, alpha=0.15, linewidth=0
        )
        axes.plot(
            curves[0].sigmas, shares.mean(0), color=colour, marker=MARKERS[number % len(MARKERS)],
            markersize=4, label=f"{name} ({len(curves)})",
        )  # fmt: skip
    axes.set_ylabel(f"T (changed, confidence above {every[0].setting.gamma:g})")
    axes.legend(loc="upper left", fontsize="small")


@plainly
def draw_roc(curves: Mapping[str, Roc]) -> Figure:
    """Found against false alarms, a step line for each, with its area and interval."""
    figure = blank(4.8, 4.6)
    roc_on(figure.add_subplot(), curves)
    return figure


def roc_on(axes: Axes, curves: Mapping[str, Roc]) -> None:
    """`draw_roc` into axes of a larger picture."""
    axes.plot([0, 1], [0, 1], color="0.7", linestyle=":", linewidth=1)
    for number, (name, roc) in enumerate(curves.items()):
        low, high = roc.ci95
        colour, width = ("0.25", 2.2) if number == 0 else (f"C{number - 1}", 1.4)
        axes.step(
            (*roc.false_alarms, 1), (*roc.found, 1), where="post", color=colour, linewidth=width,
            label=f"{name}: {roc.area:.2f} ({low:.2f} to {high:.2f})",
        )  # fmt: skip
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.set_aspect("equal")
    axes.set_xlabel("clean networks suspected")
    axes.set_ylabel("trojaned networks found")
    axes.legend(loc="lower right", fontsize="small", framealpha=0.7)
    axes.grid(alpha=0.3)
