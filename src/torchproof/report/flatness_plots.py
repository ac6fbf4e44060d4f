"""Pictures of loss landscapes and of flatness: curves with bands, planes as contours, dots."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from torchproof.core.errors import InputError
from torchproof.diagnose.flatness import Flatness
from torchproof.diagnose.landscape import Landscape, Plane
from torchproof.report.pictures import blank, plain

COLOURS = ("#1f6feb", "#d1541f", "#2f8f5b", "#8256c9", "#b0892a", "#6b7280")
LEVELS = 14  # contours of a plane
WIDE = 20.0  # ratio of the highest to the lowest loss from which on the scale is logarithmic


def draw_landscapes(found: Mapping[str, Landscape], robust: bool = True) -> Figure:
    """One curve per name, the mean over its directions, in a band from the lowest to the highest.

    Raises InputError where there is none.
    """
    if not found:
        raise InputError("no landscape", "at least one, by name", "pass {'AT': weight_landscape()}")
    with plain():
        figure = blank(5.4, 3.6)
        axes = figure.add_subplot()
        landscape_axes(axes, found, robust)
    return figure


def landscape_axes(axes: Axes, found: Mapping[str, Landscape], robust: bool = True) -> None:
    """The same, into axes that are there."""
    for number, (name, one) in enumerate(found.items()):
        colour, columns = COLOURS[number % len(COLOURS)], list(zip(*one.losses, strict=True))
        if len(one.losses) > 1:
            low, high = [min(c) for c in columns], [max(c) for c in columns]
            axes.fill_between(one.radii, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.plot(one.radii, one.mean, color=colour, label=name, linewidth=1.6)
    every = [v for one in found.values() for line in one.losses for v in line]
    if min(every) > 0 and max(every) > WIDE * min(every):
        _log(axes)
    axes.set_xlim(min(one.radii[0] for one in found.values()),
                  max(one.radii[-1] for one in found.values()))  # fmt: skip
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel("a, in lengths of the weights")
    axes.set_ylabel(f"{'robust' if robust else 'clean'} loss at w + a d, nats")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)


def _log(axes: Axes) -> None:
    """A logarithmic scale with figures that people read."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def draw_plane(plane: Plane, title: str = "") -> Figure:
    """Contours of the loss, evenly spaced in its logarithm where it spans a wide range; a cross
    marks the network itself. Raises InputError for fewer than two radii.
    """
    return draw_planes({title: plane})


def draw_planes(planes: Mapping[str, Plane]) -> Figure:
    """Several by title, side by side, each in colours of its own. Raises as `draw_plane`."""
    for plane in planes.values():
        if len(plane.radii) < 2:
            given = f"a plane of {len(plane.radii)} radii"
            raise InputError(given, "at least two", "measure it with weight_plane(radii=...)")
    with plain():
        figure = blank(5.0 * len(planes), 4.1)
        panels = figure.subplots(1, len(planes), squeeze=False)[0]
        for axes, (title, plane) in zip(panels, planes.items(), strict=True):
            _contours(figure, axes, plane)
            axes.set_title(title)
    return figure


def _contours(figure: Figure, axes: Axes, plane: Plane) -> None:
    columns = list(zip(*plane.losses, strict=True))  # matplotlib counts rows along y
    every = [v for row in plane.losses for v in row]
    low, high = min(every), max(every)
    wide = low > 0 and high > WIDE * low
    levels = _levels(low, high, wide)
    if low == high:
        axes.text(0.5, 0.5, f"{low:.3g} everywhere", transform=axes.transAxes, ha="center")
    else:
        norm = LogNorm(low, high) if wide else None
        shown = axes.contourf(
            plane.radii, plane.radii, columns, levels=levels, cmap="viridis", norm=norm
        )
        axes.contour(
            plane.radii, plane.radii, columns, levels=levels, colors="white", linewidths=0.4,
            alpha=0.6,
        )  # fmt: skip
        bar = figure.colorbar(shown, ax=axes, label="loss, nats")
        ticks = levels[:: max(1, len(levels) // 6)]
        bar.set_ticks(ticks, labels=[f"{v:.2g}" for v in ticks])
        bar.ax.minorticks_off()
    axes.plot(0, 0, marker="+", color="white", markersize=11, markeredgewidth=2)
    axes.set_aspect("equal")
    axes.set_xlabel(f"a, {plane.axes[0]} direction")
    axes.set_ylabel(f"b, {plane.axes[1]} direction")


def _levels(low: float, high: float, wide: bool) -> list[float]:
    steps = [i / LEVELS for i in range(LEVELS + 1)]
    if wide:
        made = [low * (high / low) ** s for s in steps]
    else:
        made = [low + (high - low) * s for s in steps]
    return [*made[:-1], high]  # rounding must not leave the highest value out


def draw_flatness(found: Mapping[str, Flatness | Sequence[Flatness]]) -> Figure:
    """Average- and worst-case flatness by name: a dot per network (several under one name: seeds),
    a bar for their mean, and a line over one standard deviation of the draws. Kinds that were not
    measured are left out.

    Raises InputError where nothing was measured.
    """
    groups = {k: [v] if isinstance(v, Flatness) else list(v) for k, v in found.items()}
    kinds = [k for k in ("average", "worst") if any(_had(g, k) for g in groups.values())]
    if not kinds:
        remedy = "measure with draws or starts above 0"
        raise InputError("no flatness to draw", "at least one measured network", remedy)
    with plain():
        size = 0.9 + 0.32 * len(groups)
        figure = blank(3.7 * len(kinds) + 1, size + 0.4)
        every = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
        for axes, kind in zip(every, kinds, strict=True):
            _bars(axes, groups, kind)
        every[0].set_yticks(range(len(groups)), list(groups))
        every[0].invert_yaxis()
    return figure


def _had(group: Sequence[Flatness], kind: str) -> list[float]:
    return [v for one in group if (v := getattr(one, kind)) is not None]


def _bars(axes: Axes, groups: Mapping[str, Sequence[Flatness]], kind: str) -> None:
    for place, group in enumerate(groups.values()):
        values = _had(group, kind)
        if not values:
            continue
        mean = statistics.fmean(values)
        axes.barh(place, mean, 0.6, color=COLOURS[0], alpha=0.3)
        axes.scatter(values, [place] * len(values), color=COLOURS[0], s=14, zorder=3)
        spreads = _had(group, "spread") if kind == "average" else []
        if spreads:
            wide = math.sqrt(statistics.fmean(s * s for s in spreads))
            axes.plot([mean - wide, mean + wide], [place, place], color=COLOURS[0], linewidth=1)
    first = next(iter(groups.values()))[0]
    xi = first.average_xi if kind == "average" else first.worst_xi
    axes.set_xlabel(f"{kind}-case flatness, nats (ξ = {xi:g})")
    axes.grid(axis="x", alpha=0.3)
