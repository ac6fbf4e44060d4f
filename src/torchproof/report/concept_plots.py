"""Pictures of concepts: recall beside its cost with intervals, TCAV scores, sheets of the most and
least activating images.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from torchproof.concept.concepts import Concept, Shown
from torchproof.concept.draws import Examined
from torchproof.concept.quality import SUSPECT
from torchproof.concept.tcav import LEVEL, Tcav
from torchproof.core.errors import InputError
from torchproof.core.metrics import student
from torchproof.report.pictures import blank, plainly

MEASURES = {
    "recall": ("recall of concept images", "#1f6feb"),
    "false_positives": ("false-positive rate", "#d1690e"),
    "auroc": ("AUROC", "#2b8a3e"),
}
QUIET, INK = "#8a8f98", "#30343b"


@plainly
def draw(found: Concept, classes: Sequence[str] = (), title: str = "") -> Figure:
    """Quality of the classifiers on the left, TCAV scores (if any) on the right."""
    scores = bool(found.tcav)
    height = 1.6 + max(0.62 * 2 * len(found.ways), 0.5 * len(found.tcav))
    figure = blank(11.5 if scores else 6.8, max(3.6, height))
    axes = figure.subplots(1, 2 if scores else 1, squeeze=False)[0]
    bars(axes[0], found.ways, found.plan.group)
    if scores:
        tcav_on(axes[1], found.tcav, classes)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


@plainly
def draw_images(
    x: Tensor, most: Sequence[Shown], least: Sequence[Shown], labels: Mapping[int, str],
    title: str = "",
) -> Figure:  # fmt: skip
    """A sheet of the images x (N, C, H, W) that show the concept most, and least, the strongest
    first; labels: what to write over a row of x, beside its score.

    Raises InputError where nothing is to be shown.
    """
    if not (most or least):
        given = "no images to show"
        raise InputError(given, "at least one ranked image", "rank two images or more")
    wide = max(len(most), len(least))
    figure = blank(1.25 * wide + 0.5, 3.6)
    panels = figure.subplots(2, wide, squeeze=False)
    for row, (name, shown) in enumerate((("most", most), ("least", least))):
        for place, axes in enumerate(panels[row]):
            axes.set_axis_off()
            if place < len(shown):
                _picture(axes, x[shown[place].row], labels.get(shown[place].row, ""), shown[place])
        panels[row][0].text(
            -0.08, 0.5, name, transform=panels[row][0].transAxes, rotation=90, ha="right",
            va="center", fontsize=11, fontweight="bold",
        )  # fmt: skip
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def bars(axes: Axes, ways: Sequence[Examined], group: int) -> None:
    """Recall, false-positive rate and AUROC of each way and of its averages: bars are means, lines
    are standard deviations over draws, dots are draws.
    """
    lines = [
        line
        for way in ways
        for line in (
            (way.name, way.each),
            (f"{way.name},\nmean of {min(group, len(way.each))}", way.averaged),
        )
    ]
    places = np.arange(len(lines))[::-1]
    for shift, (name, (words, colour)) in zip((0.26, 0, -0.26), MEASURES.items(), strict=True):
        for place, (_, each) in zip(places, lines, strict=True):
            values = [getattr(q, name) for q in each]
            mean, std = statistics.fmean(values), statistics.stdev(values) if values[1:] else 0.0
            at = place + shift
            axes.barh(at, mean, 0.24, color=colour, alpha=0.35)
            axes.plot([mean - std, mean + std], [at, at], color=INK, linewidth=1.3, zorder=4)
            axes.plot(values, [at] * len(values), ".", color=colour, markersize=4, zorder=3)
        axes.barh([0], [0], color=colour, alpha=0.5, label=words)
    axes.axvline(SUSPECT, color=QUIET, linewidth=0.8, linestyle=":")
    axes.set_yticks(places, [name for name, _ in lines], fontsize=9)
    _finished(axes, "on held-out images (dots: draws, lines: standard deviation)")


def tcav_on(axes: Axes, scores: Sequence[Tcav], classes: Sequence[str] = ()) -> None:
    """TCAV score of each class beside that of random vectors, with 95 % intervals over draws; a
    star marks p below 0.05 after Bonferroni.
    """
    places = np.arange(len(scores))[::-1]
    for place, one in zip(places, scores, strict=True):
        colour = "#1f6feb" if one.significant else QUIET
        for shift, values, paint in ((0.18, one.scores, colour), (-0.18, one.random, "#d5d8dd")):
            mean, within = statistics.fmean(values), student(values, 0.0, 1.0)
            axes.barh(place + shift, mean, 0.34, color=paint, alpha=0.6)
            if within is not None:
                axes.plot(within, [place + shift] * 2, color=INK, linewidth=1.3)
    names = [_name(one, classes) for one in scores]
    axes.set_yticks(places, names, fontsize=9)
    axes.barh([0], [0], color="#1f6feb", alpha=0.6, label=f"concept, p < {LEVEL:g}")
    axes.barh([0], [0], color=QUIET, alpha=0.6, label="concept, not significant")
    axes.barh([0], [0], color="#d5d8dd", alpha=0.6, label="random vectors")
    axes.axvline(0.5, color=QUIET, linewidth=0.8, linestyle=":")
    _finished(axes, "TCAV score: share of images whose logit grows (95 % interval)")


def _finished(axes: Axes, words: str) -> None:
    """The axis of a share, and the legend above the panel."""
    axes.set_xlim(0, 1.02)
    axes.set_xlabel(words, fontsize=9)
    axes.grid(axis="x", alpha=0.3)
    axes.legend(
        frameon=False, fontsize=8.5, ncols=3, loc="lower center", bbox_to_anchor=(0.42, 1.0),
        columnspacing=1.0,
    )  # fmt: skip


def _name(one: Tcav, classes: Sequence[str]) -> str:
    name = classes[one.target] if one.target < len(classes) else f"class {one.target}"
    return f"{name}{' *' if one.significant else ''}\nn = {one.n}"


def _picture(axes: Axes, image: Tensor, label: str, shown: Shown) -> None:
    pixels = image.detach().float().cpu().clamp(0, 1).permute(1, 2, 0).numpy()
    grey = pixels.shape[2] == 1
    smooth = "nearest" if max(pixels.shape[:2]) < 64 else "antialiased"
    axes.imshow(pixels[..., 0] if grey else pixels, cmap="gray", vmin=0, vmax=1,
                interpolation=smooth)  # fmt: skip
    short = label if len(label) < 15 else label[:13] + "…"
    axes.set_title(f"{short}\n{shown.score:+.2f}".strip(), fontsize=8, pad=3)
