"""The picture of the flatness experiment: a training that overfits, variants, landscapes."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from torchproof.diagnose.landscape import Landscape
from torchproof.report.flatness_plots import COLOURS, landscape_axes
from torchproof.report.pictures import blank, content, plainly
from torchproof.reproduce.flatness_judge import Cell, named, names, trajectories

GREY = "#8a8f98"


@plainly
def picture(cells: Sequence[Cell], curves: Mapping[str, Landscape]) -> bytes:
    """Three panels as PNG."""
    figure = blank(14.5, 4.3)
    first, second, third = figure.subplots(1, 3)
    _training(first, cells)
    _variants(second, cells)
    landscape_axes(third, curves)
    third.set_title("along random directions")
    return content(figure, dpi=130)


def _training(axes: Axes, cells: Sequence[Cell]) -> None:
    """Means over seeds as lines, the seeds' range as bands; flatness on an axis of its own."""
    each = list(trajectories(cells).values())
    epochs = [c.epoch for c in each[0]]
    other = axes.twinx()
    other.spines["right"].set_visible(True)
    for at, measure, label, colour in (
        (axes, "train_loss", "robust loss, training", GREY),
        (axes, "loss", "robust loss, test", COLOURS[0]),
        (other, "average", "average-case flatness (right)", COLOURS[1]),
    ):
        columns = list(zip(*([getattr(c, measure) for c in one] for one in each), strict=True))
        at.plot(epochs, [statistics.fmean(c) for c in columns], color=colour, label=label)
        at.fill_between(epochs, [min(c) for c in columns], [max(c) for c in columns],
                        color=colour, alpha=0.15, linewidth=0)  # fmt: skip
    axes.set_ylim(bottom=0)
    other.set_ylim(bottom=0)
    axes.set_xlabel("epoch")
    axes.set_ylabel("robust loss, nats")
    other.set_ylabel("average-case flatness, nats", color=COLOURS[1])
    axes.grid(alpha=0.3)
    lines = [*axes.get_lines(), *other.get_lines()]
    axes.legend(lines, [str(line.get_label()) for line in lines], frameon=False, fontsize=9)
    axes.set_title("adversarial training that overfits")


def _variants(axes: Axes, cells: Sequence[Cell]) -> None:
    """A large dot per variant, its mean; a small one per seed; numbers for names."""
    labels = []
    for number, name in enumerate(names(cells)):
        group, colour = named(cells, name), f"C{number % 10}"
        x, y = [c.average for c in group], [c.loss for c in group]
        axes.scatter(x, y, s=10, color=colour, alpha=0.5)
        label = axes.scatter(
            statistics.fmean(x), statistics.fmean(y), s=60, color=colour, label=name,
            marker="os^Dv"[number // 2 % 5], edgecolor="white", linewidth=0.6, zorder=3,
        )  # fmt: skip
        labels.append(label)
    axes.set_xlabel("average-case flatness, nats (lower is flatter)")
    axes.set_ylabel("test robust loss, nats")
    axes.grid(alpha=0.3)
    axes.legend(handles=labels, frameon=False, fontsize=8, loc="upper left",
                bbox_to_anchor=(1.0, 1.0))  # fmt: skip
    axes.set_title("variants of adversarial training")
