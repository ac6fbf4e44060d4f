"""Pictures of anomaly detection: curves over epochs and contamination with bands over seeds,
histograms of scores, heat maps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from torchproof.core.errors import InputError
from torchproof.report.figures import DASHES, MARKERS
from torchproof.report.pictures import blank, plainly

NORMAL, ANOMALOUS = "#4c78a8", "#d1495b"

Curves = Mapping[str, Mapping[float, Sequence[float]]]
"""Of each name, at each place on the x axis, one value per seed."""


@plainly
def draw_curves(
    curves: Curves, along: str, measured: str, levels: Sequence[float] = (), log: bool = False
) -> Figure:
    """The mean of each curve over seeds in a band from the lowest to the highest; dotted lines at
    `levels`. log: of the x axis. Raises InputError for curves without a value.
    """
    figure = blank(6.4, 4.2)
    curves_on(figure.add_subplot(), curves, along, measured, levels, log)
    return figure


def curves_on(
    axes: Axes, curves: Curves, along: str, measured: str,
    levels: Sequence[float] = (), log: bool = False,
) -> None:  # fmt: skip
    """`draw_curves` into axes of a larger picture."""
    if not curves or not all(v for at in curves.values() for v in (at, *at.values())):
        given = f"curves of {[len(at) for at in curves.values()]} places"
        raise InputError(given, "at least one value at each place", "measure first")
    for number, (name, at) in enumerate(curves.items()):
        places = sorted(at)
        values = [np.asarray(at[place], dtype=float) for place in places]
        colour = f"C{number}"
        low, high = [v.min() for v in values], [v.max() for v in values]
        axes.fill_between(places, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.plot(
            places, [v.mean() for v in values], color=colour, markersize=4, label=name,
            marker=MARKERS[number % len(MARKERS)], linestyle=DASHES[number % len(DASHES)],
        )  # fmt: skip
    for level in levels:
        axes.axhline(level, color="0.55", linestyle=":", linewidth=1)
    every = sorted({place for at in curves.values() for place in at})
    if log:
        axes.set_xscale("log")
        axes.set_xticks([], minor=True)
    axes.set_xticks(every, [f"{place:g}" for place in every])
    axes.set_xlabel(along)
    axes.set_ylabel(measured)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", frameon=False)


@plainly
def draw_scores(
    normal: Sequence[float], anomalous: Sequence[float], what: str,
    threshold: float | None = None, names: tuple[str, str] = ("normal", "outliers"),
) -> Figure:  # fmt: skip
    """Two histograms of one score as shares of their kind, and the threshold."""
    figure = blank(6.0, 3.6)
    scores_on(figure.add_subplot(), normal, anomalous, what, threshold, names)
    return figure


def scores_on(
    axes: Axes, normal: Sequence[float], anomalous: Sequence[float], what: str,
    threshold: float | None = None, names: tuple[str, str] = ("normal", "outliers"),
) -> None:  # fmt: skip
    """`draw_scores` into axes of a larger picture. Anomalous may be empty: kinds not known."""
    every = np.asarray([*normal, *anomalous], dtype=float)
    if not len(every):
        raise InputError("no scores", "at least one", "score some images")
    low, high = np.quantile(every, (0.0, 0.995))  # a few far ones must not squeeze the others
    edges = np.linspace(low, max(high, low + 1e-9), 31)
    groups = (
        (names[0] if len(anomalous) else "all", normal, NORMAL),
        (names[1], anomalous, ANOMALOUS),
    )
    for name, values, colour in groups:
        if len(values):
            inside = np.clip(np.asarray(values, dtype=float), low, edges[-1])
            share = np.full(len(inside), 1 / len(inside))
            label = f"{name} ({len(inside)})"
            axes.hist(
                inside, bins=list(edges), weights=share, color=colour, alpha=0.55, label=label
            )
    if threshold is not None:
        axes.axvline(threshold, color="0.2", linestyle="--", linewidth=1.2, label="threshold")
    axes.set_xlabel(what)
    axes.set_ylabel("share of its kind")
    axes.legend(fontsize="small", frameon=False)
    axes.grid(alpha=0.3, axis="y")


@plainly
def draw_heat_maps(x: Tensor, maps: Tensor, titles: Sequence[str]) -> Figure:
    """Images x (N, C, H, W) above their squared errors by pixel (N, H, W), on one scale of colours.

    Raises InputError unless there is a map and a title for each of 1 or more images.
    """
    if not len(x) == len(maps) == len(titles) or not len(x):
        given = f"{len(x)} images, {len(maps)} heat maps, {len(titles)} titles"
        raise InputError(given, "as many of each", "cut them to one length")
    figure = blank(1.25 * len(x) + 0.9, 3.1)
    axes = figure.subplots(2, len(x), squeeze=False)
    heat_maps_on(axes, x, maps, titles)
    return figure


def heat_maps_on(axes: Any, x: Tensor, maps: Tensor, titles: Sequence[str]) -> None:
    """`draw_heat_maps` into 2 x N axes of a larger picture."""
    top = float(maps.max()) or 1.0
    drawn = None
    for column, title in enumerate(titles):
        above, below = axes[0][column], axes[1][column]
        image = x[column].detach().cpu().numpy()
        grey = image.shape[0] != 3
        above.imshow(
            image[0] if grey else image.transpose(1, 2, 0),
            cmap="gray" if grey else None,
            vmin=0,
            vmax=1,
        )
        drawn = below.imshow(maps[column].detach().cpu().numpy(), cmap="magma", vmin=0, vmax=top)
        above.set_title(title, fontsize=8)
        for part in (above, below):
            part.set_axis_off()
    figure = axes[0][0].figure
    every = [part for row in axes for part in row]
    figure.colorbar(drawn, ax=every, label="squared error", fraction=0.05, pad=0.01)
