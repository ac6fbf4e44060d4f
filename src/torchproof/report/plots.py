"""The plots: accuracy against eps, and the curves of a training run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from torchproof.report.figures import DASHES, MARKERS, PAINT, SERIES, drawing, inline, percent_axis
from torchproof.report.numbers import Share
from torchproof.report.training import LOOK, Training

TIGHT = 0.1  # of the axis: nearer radii would have their labels overlap, so round ones are used


@dataclass(frozen=True)
class Point:
    """An accuracy at a radius; `tick` is the radius as it was written."""

    eps: float
    tick: str
    share: Share


@dataclass(frozen=True)
class Line:
    """The points of one model, by radius; `mark` is its letter, `number` its colour."""

    mark: str
    number: int
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Curve:
    """A recorded number of the training run, and how it is named and drawn."""

    name: str
    words: str
    number: int


ACCURACIES = (
    Curve("clean", "held-out examples, clean", 2),
    Curve("robust", "held-out examples, attacked", 0),
    Curve("fgsm", "held-out examples, one step of ε", 4),
    Curve("train_clean", "training batches, clean", 3),
    Curve("train_robust", "training batches, attacked", 1),
)
HELD_OUT = ("clean", "robust", "fgsm")  # shares of the held-out examples, which have an interval
GAPS = (
    Curve(
        "overfitting",
        "overfitting: best held-out accuracy so far, robust where measured, minus the epoch's",
        0,
    ),
    Curve("gap", "catastrophic overfitting: one step of ε minus the iterated attack, held out", 4),
)
LOSSES = (Curve("loss", "loss of the training method, mean over the epoch", 0),)

GAP = Curve(
    f"{LOOK}gap",
    "gap: accuracy under one step of ε minus that under the iterated attack, as a share; "
    "rings: catastrophic overfitting",
    0,
)
LINEARITY = Curve(
    f"{LOOK}linearity", "mean cosine of the input gradients at an image and near it", 1
)
LOOKS = (GAP, LINEARITY)
FIRST_LAYER = (Curve(f"{LOOK}first_layer", "length of the first layer's weights", 0),)
MARKED = 60  # rings that can be told apart along the axis


def against_eps(lines: Sequence[Line], norm: str, name: str) -> Markup:
    """Accuracy (percent) against the radius, with the 95 % interval of every point."""
    with drawing() as (figure, axes):
        for line in lines:
            _errors(axes, line, _apart(line, lines))
        ticks = {point.eps: point.tick for line in lines for point in line.points}
        widest = max(ticks)
        axes.set_xlim(-0.03 * widest, 1.08 * widest)
        radii = sorted(ticks)
        if all(after - before > TIGHT * widest for before, after in pairwise(radii)):
            axes.set_xticks(radii, [ticks[eps] for eps in radii])
        axes.set_xlabel(f"ε ({norm}, input units)")
        axes.set_ylabel("accuracy, %")
        percent_axis(axes)
        said = "; ".join(
            f"{line.mark}: "
            + ", ".join(f"{point.share.percent} % at {point.tick}" for point in line.points)
            for line in lines
        )
        return inline(figure, name, f"Accuracy against ε, {norm}", said)


def _apart(line: Line, lines: Sequence[Line]) -> Point:
    """The point of a line that is farthest from the other lines: where its letter can be read."""

    def distance(point: Point) -> float:
        others = [p for other in lines if other is not line for p in other.points]
        near = [abs(p.share.value - point.share.value) for p in others if p.eps == point.eps]
        return min(near, default=1.0 if point is line.points[-1] else 0.0)

    return max(line.points, key=distance)


def _errors(axes: Axes, line: Line, marked: Point) -> None:
    colour = PAINT[f"s{line.number % SERIES}"]
    values = [point.share.value for point in line.points]
    axes.errorbar(
        [point.eps for point in line.points],
        values,
        yerr=[
            [max(0.0, point.share.value - point.share.low) for point in line.points],
            [max(0.0, point.share.high - point.share.value) for point in line.points],
        ],
        color=colour,
        marker=MARKERS[line.number % SERIES],
        linestyle=DASHES[line.number % SERIES],
        elinewidth=1.2,
        capsize=4,
        clip_on=False,
    )
    axes.annotate(
        line.mark,
        (marked.eps, marked.share.value),
        xytext=(11, 5),
        textcoords="offset points",
        va="center",
        color=colour,
        weight="bold",
        annotation_clip=False,
    )


def curves(training: Training, wanted: Sequence[Curve], axis: str, name: str) -> Markup | None:
    """The recorded ones of `wanted` against the epoch, None if none is."""
    found = [curve for curve in wanted if training.points(curve.name)]
    if not found:
        return None
    with drawing() as (figure, axes):
        for curve in found:
            _curve(axes, training, curve)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylabel(axis)
        if axis.endswith("%"):
            percent_axis(axes)
            _mark_best(axes, training)
        else:
            axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
        said = "; ".join(
            f"{curve.words}: from {values[0][1]:.4g} to {values[-1][1]:.4g}"
            for curve in found
            for values in [training.points(curve.name)]
        )
        return inline(figure, name, f"{axis.split(',')[0].capitalize()} over the epochs", said)


def _curve(axes: Axes, training: Training, curve: Curve) -> None:
    epochs, values = zip(*training.points(curve.name), strict=True)
    colour = PAINT[f"s{curve.number}"]
    lone = MARKERS[curve.number] if len(epochs) < 3 else ""
    axes.plot(epochs, values, color=colour, linestyle=DASHES[curve.number], marker=lone)
    if curve is GAP:
        _ring_flagged(axes, training)
    if curve.name not in HELD_OUT:
        return
    rows = [row for row, _ in training.series(curve.name)]
    shares = [share for row in rows if (share := training.share(row, curve.name)) is not None]
    if len(shares) == len(epochs):
        low, high = [share.low for share in shares], [share.high for share in shares]
        axes.fill_between(epochs, low, high, color=colour, alpha=0.16, linewidth=0)


RING: dict[str, Any] = {
    "markerfacecolor": "none",
    "markeredgecolor": PAINT["ink"],
    "markeredgewidth": 1.4,
}


def _ring_flagged(axes: Axes, training: Training) -> None:
    """A ring around the looks that found catastrophic overfitting, but for those too near to the
    one before.
    """
    seen, last = [at for at, _ in training.points(GAP.name)], -math.inf
    room = (seen[-1] - seen[0]) / MARKED
    for at, gap in training.flagged:
        if at - last >= room:
            axes.plot(at, gap, marker="o", markersize=7, **RING)
            last = at


def _mark_best(axes: Axes, training: Training) -> None:
    """A ring around the epoch whose weights are kept."""
    best = training.best
    height = None if best is None else training.number(best, training.merit)
    if best is None or height is None:
        return
    at = (training.epoch(best), height)
    axes.plot(*at, marker="o", markersize=10, **RING)
    axes.annotate("kept", at, xytext=(0, -12), textcoords="offset points", ha="center", va="top")
