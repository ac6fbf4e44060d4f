"""Of `reproduce detectors`: the picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from torchproof.detect.adaptive import DROP
from torchproof.detect.bench.record import Bench, Judged
from torchproof.report.detect_plots import heat
from torchproof.report.pictures import blank, content, plainly
from torchproof.reproduce.detectors_figures import detectors, fits

PLAIN, KNOWS = "#4c78a8", "#d1495b"


@plainly
def picture(found: Mapping[str, Sequence[Bench]]) -> bytes:
    """For each data set: AUROC of detectors on attacks, seeds averaged; what becomes of it when the
    adversary knows the detector; false alarms; supervised detectors by the attack that they learnt.
    """
    figure = blank(16.5, 7.6 * len(found))
    grid = figure.add_gridspec(2 * len(found), 3, width_ratios=(2.3, 1, 1))
    for number, (data, each) in enumerate(found.items()):
        areas = figure.add_subplot(grid[2 * number, 0])
        _areas(areas, data, each)
        _falls(figure.add_subplot(grid[2 * number, 1:]), each)
        _learnt(figure.add_subplot(grid[2 * number + 1, 0]), each)
        _alarms(figure.add_subplot(grid[2 * number + 1, 1]), each)
        _robust(figure.add_subplot(grid[2 * number + 1, 2]), each)
    return content(figure, dpi=100)


def _columns(each: Sequence[Bench]) -> tuple[list[str], list[str]]:
    """Attacks that succeeded somewhere, and data sets from elsewhere."""
    attacks = [a.name for a in each[0].attacks if a.fooled]
    others = [r.what for r in each[0].judged[0].rows if r.kind == "elsewhere"]
    return attacks, others


def _mean(made: Sequence[Judged], column: str) -> float:
    rows = [one.told(column) or one.told(column, "elsewhere") for one in made]
    known = [row.auroc for row in rows if row is not None]
    return float(np.mean(known)) if known else np.nan


def _areas(axes: Any, data: str, each: Sequence[Bench]) -> None:
    names = detectors(each)
    attacks, others = _columns(each)
    columns = [*attacks, *others]
    table = np.array([[_mean(fits(each, name), c) for c in columns] for name in names])
    heat(axes, table, names, columns, 8.5)
    if others:
        axes.axvline(len(attacks) - 0.5, color="black", linewidth=1.2)
    axes.set_title(f"{data}: AUROC on successful images, and on images from elsewhere",
                   loc="left", fontweight="bold", fontsize="medium")  # fmt: skip


def _falls(axes: Any, each: Sequence[Bench]) -> None:
    """From the plain to the adaptive attack, a pair of dots per seed."""
    names = detectors(each)
    for place, name in enumerate(names):
        for one in fits(each, name):
            told, adaptive = one.told(each[0].main), one.adaptive
            after = None if adaptive is None else adaptive.after
            if told is not None and after is not None:
                axes.plot([told.auroc, after], [place] * 2, color="0.75", linewidth=1, zorder=1)
                axes.scatter([after], [place], color=KNOWS, s=22, zorder=3)
            if told is not None:
                axes.scatter([told.auroc], [place], color=PLAIN, s=22, zorder=2)
    axes.scatter([], [], color=PLAIN, s=22, label=f"{each[0].main}, does not know the detector")
    axes.scatter([], [], color=KNOWS, s=22, label=f"adaptive, failed where it falls by < {DROP:g}")
    axes.axvline(0.5, color="0.5", linestyle=":", linewidth=1)
    _names(axes, names)
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel("AUROC of misclassified images; a dot per seed; dotted: a guess")
    axes.legend(fontsize="small", frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0),
                ncols=2)  # fmt: skip


def _names(axes: Any, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names, fontsize="small")
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="x", alpha=0.3)


def _learnt(axes: Any, each: Sequence[Bench]) -> None:
    """Supervised detectors, a row for each attack that they were trained on."""
    attacks, _ = _columns(each)
    pairs = list(dict.fromkeys(
        (one.detector, one.trained_on) for b in each for one in b.judged if one.trained_on
    ))  # fmt: skip
    if not pairs:
        axes.axis("off")
        return
    made = {pair: [one for b in each if (one := b.of(*pair)) is not None] for pair in pairs}
    table = np.array([[_mean(made[pair], a) for a in attacks] for pair in pairs])
    heat(axes, table, [f"{name} < {on}" for name, on in pairs], attacks, 8.5)
    axes.set_title("supervised detectors < the attack that they were trained on", loc="left",
                   fontsize="medium")  # fmt: skip


def _alarms(axes: Any, each: Sequence[Bench]) -> None:
    names = detectors(each)
    for place, name in enumerate(names):
        for one in fits(each, name):
            axes.scatter([100 * one.alarms.share], [place], color=PLAIN, s=22)
    asked = 100 * each[0].settings["fpr"]
    axes.axvspan(asked - 2, asked + 2, color="0.9", zorder=0)
    axes.axvline(asked, color="0.5", linestyle=":", linewidth=1)
    _names(axes, names)
    axes.set_xlim(left=0)
    axes.set_xlabel(f"false alarms, %; asked for {asked:g} %")


def _robust(axes: Any, each: Sequence[Bench]) -> None:
    names = detectors(each)
    for place, name in enumerate(names):
        for one in fits(each, name):
            if one.adaptive is not None:
                axes.scatter([100 * one.adaptive.robust.share], [place], color=KNOWS, s=22)
    _names(axes, names)
    axes.set_xlim(-2, 102)
    axes.set_xlabel("robust accuracy with it, adaptive attack, %")
