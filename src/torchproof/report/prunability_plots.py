"""Curves of prunability: the training loss against the fraction of weights that is kept."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from torchproof.diagnose.prunability import Prunability
from torchproof.report.pictures import blank, plainly

SHOWN = 4.0  # loss, nats, above which a curve is cut off
COLOURS = ("#1f6feb", "#d1690e", "#2b8a3e", "#8a3ffc", "#8a8f98", "#c2255c")


@plainly
def draw(found: Prunability | Mapping[str, Prunability]) -> Figure:
    """One network, or several (or several ways of pruning one) by name. Marked is mu."""
    curves: Mapping[str, Prunability] = (
        {found.by: found} if isinstance(found, Prunability) else found
    )
    figure = blank(6.4, 4.0)
    draw_on(figure.subplots(), curves)
    return figure


def draw_on(axes: Axes, curves: Mapping[str, Prunability]) -> None:
    """Into a panel: loss with a band of a standard deviation over draws, and what is allowed."""
    highest = 0.0
    for number, (name, curve) in enumerate(curves.items()):
        colour = COLOURS[number % len(COLOURS)]
        low, high = ([v + way * s for v, s in zip(curve.losses, curve.spread, strict=True)]
                     for way in (-1, 1))  # fmt: skip
        label = f"{name}: µ = {curve.fraction:.2f}"
        axes.plot(curve.fractions, curve.losses, color=colour, label=label, linewidth=1.8)
        axes.fill_between(curve.fractions, low, high, color=colour, alpha=0.15, linewidth=0)
        at = curve.losses[curve.fractions.index(curve.fraction)]
        axes.plot([curve.fraction], [at], "o", color=colour, markersize=7, zorder=4)
        highest = max(highest, *curve.losses)
    limits = [curve.limit for curve in curves.values()]
    axes.axhspan(min(limits), max(limits), color="#8a8f98", alpha=0.25, linewidth=0)
    axes.axhline(max(limits), color="#5b616b", linestyle="--", linewidth=1, label="allowed loss")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.05 * min(highest, SHOWN))
    axes.set_xlabel("fraction of the weights that is kept")
    counts = sorted({curve.n for curve in curves.values()})
    axes.set_ylabel(f"loss on {', '.join(map(str, counts))} training images, nats")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=9)
