"""Pictures of detectors: ROC curves, AUROC of every detector on every attack, what supervised ones
carry over from the attack they were trained on to others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from torchproof.core.errors import InputError
from torchproof.core.ranking import Roc
from torchproof.detect.bench.record import RATES, Bench, Judged
from torchproof.report.figures import DASHES
from torchproof.report.pictures import blank, plainly

AREAS = "RdBu"
"""Blue is told apart, red is the wrong way round, white is a guess."""

Scores = Mapping[str, Mapping[str, Tensor]]
"""Of `stored_scores`: by detector, and by what was scored."""


def main_fits(found: Bench) -> list[Judged]:
    """One for each detector: that which was attacked adaptively, or the first."""
    fits = []
    for name in found.detectors:
        every = [one for one in found.judged if one.detector == name]
        fits.append(next((one for one in every if one.adaptive), every[0]))
    return fits


@plainly
def draw_roc(found: Bench, scores: Scores) -> Figure:
    """ROC curves on the main attack's successful images, and on those of the adaptive attacks.

    The axis of false alarms is logarithmic: what a detector can be used for is at its left.
    Raises InputError without a detector.
    """
    if not found.judged:
        raise InputError("no detector that was judged", "at least one", "see what was refused")
    figure = blank(12.5, 4.8)
    left, right = figure.subplots(1, 2)
    for number, one in enumerate(main_fits(found)):
        clean, told = scores[one.name]["test"], one.told(found.main)
        if told is not None:
            made = scores[one.name][found.main]
            _curve(left, clean, made, number, f"{one.detector}, {told.auroc:.3f}")
        evading = scores[one.name].get("adaptive")
        after = None if one.adaptive is None else one.adaptive.after
        if evading is not None and after is not None:
            _curve(right, clean, evading, number, f"{one.detector}, {after:.3f}")
    _framed(left, f"{found.main}, successful", found.test, "lower right")
    _framed(right, "adaptive: knows the detector, same radius", found.test, "upper left")
    return figure


def _curve(axes: Axes, clean: Tensor, made: Tensor, number: int, label: str) -> None:
    curve = Roc.of(clean, made)
    least = 1 / (2 * len(clean))  # where no clean image is flagged
    alarms = np.maximum(np.asarray(curve.false_alarms), least)
    axes.step(alarms, curve.found, where="post", color=f"C{number}", label=label,
              linestyle=DASHES[number % len(DASHES)])  # fmt: skip


def _framed(axes: Axes, title: str, n: int, legend: Any) -> None:
    least = 1 / (2 * n)
    line = np.geomspace(least, 1, 100)
    axes.plot(line, line, color="0.6", linewidth=1, linestyle=":")
    axes.set_xscale("log")
    axes.set_xlim(least, 1)
    axes.set_ylim(0, 1.02)
    ticks = [t for t in (0.001, *RATES, 1.0) if t >= least]
    axes.set_xticks(ticks, [f"{100 * tick:g} %" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("clean images flagged")
    axes.set_ylabel("adversarial images flagged")
    axes.set_title(title, loc="left", fontsize="medium")
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(title="detector, AUROC", fontsize="x-small", title_fontsize="x-small",
                    framealpha=0.85, edgecolor="none", loc=legend)  # fmt: skip


@plainly
def draw_areas(found: Bench) -> Figure:
    """AUROC of every fitted detector (rows) on every attack's successful images, on images from
    elsewhere, and under its adaptive attack (columns). Raises InputError without a detector.
    """
    if not found.judged:
        raise InputError("no detector that was judged", "at least one", "see what was refused")
    attacks = [a.name for a in found.attacks if a.fooled]
    others = list(dict.fromkeys(
        r.what for one in found.judged for r in one.rows if r.kind == "elsewhere"
    ))  # fmt: skip
    columns = [*attacks, *others, "adaptive"]
    table = np.array([[_area(one, column) for column in columns] for one in found.judged])
    rows = [_row_name(one) for one in found.judged]
    figure = blank(3.2 + 0.52 * len(columns), 1.9 + 0.34 * len(rows))
    axes = figure.add_subplot()
    heat(axes, table, rows, columns)
    for place in {len(attacks), len(attacks) + len(others)} - {0}:
        axes.axvline(place - 0.5, color="black", linewidth=1.2)
    return figure


def _area(one: Judged, column: str) -> float:
    """NaN where there was no such image."""
    if column == "adaptive":
        known = None if one.adaptive is None else one.adaptive.after
        return np.nan if known is None else known
    told = one.told(column) or one.told(column, "elsewhere")
    return np.nan if told is None else told.auroc


def _row_name(one: Judged) -> str:
    return one.detector if one.trained_on is None else f"{one.detector} < {one.trained_on}"


def heat(
    axes: Axes, table: Any, rows: Sequence[str], columns: Sequence[str], size: float = 7.5
) -> None:
    """AUROCs as colours, with their numbers in them; NaN is left white."""
    axes.imshow(table, cmap=AREAS, vmin=0, vmax=1, aspect="auto")
    for (row, column), value in np.ndenumerate(table):
        if np.isfinite(value):
            dark = abs(value - 0.5) > 0.36
            text = "1" if value >= 0.9995 else f"{value:.2f}".removeprefix("0")
            axes.text(column, row, text, ha="center", va="center", fontsize=size,
                      color="white" if dark else "black")  # fmt: skip
    axes.set_xticks(range(len(columns)), columns, rotation=55, ha="right", fontsize="small",
                    rotation_mode="anchor")  # fmt: skip
    axes.set_yticks(range(len(rows)), rows, fontsize="small")
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)


@plainly
def draw_matrices(found: Bench) -> Figure | None:
    """For each supervised detector: AUROC on the successful images of the attack in the column,
    where it was trained on the attack in the row. None where there is no such detector.
    """
    names = list(dict.fromkeys(one.detector for one in found.judged if one.trained_on))
    if not names:
        return None
    attacks = [a.name for a in found.attacks if a.fooled]
    tall = max(sum(o.detector == n for o in found.judged) for n in names)
    figure = blank(2.6 + 0.5 * len(attacks), len(names) * (0.5 + 0.36 * tall) + 1.3)
    for number, (name, axes) in enumerate(
        zip(names, figure.subplots(len(names), 1, squeeze=False)[:, 0], strict=True)
    ):
        fits = [one for one in found.judged if one.detector == name]
        table = np.array([[_area(one, attack) for attack in attacks] for one in fits])
        heat(axes, table, [str(one.trained_on) for one in fits], attacks)
        axes.set_title(f"{name}: trained on", loc="left", fontsize="small")
        if number < len(names) - 1:
            axes.set_xticklabels([])
    return figure
