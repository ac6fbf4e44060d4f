"""The local Lipschitz constant alpha(r), of a network and of its layers: from below by noise and by
ascent, from above by certified bounds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogFormatterSciNotation, LogLocator, NullFormatter

from torchproof.diagnose.lipschitz import Layers, LipschitzCurve
from torchproof.report.pictures import blank, plainly

COLOURS = ("#1f6feb", "#d1690e", "#2b8a3e", "#8a3ffc", "#c2255c")


@plainly
def draw(found: LipschitzCurve | Mapping[str, LipschitzCurve]) -> Figure:
    """One curve, or those of several networks by name, all of the same output."""
    curves = {found.output: found} if isinstance(found, LipschitzCurve) else found
    figure = blank(6.4, 4.2)
    draw_on(figure.subplots(), curves)
    return figure


def draw_on(axes: Axes, curves: Mapping[str, LipschitzCurve]) -> None:
    """Into a panel: lines are the largest so far, marks the value at each radius alone."""
    for number, (name, curve) in enumerate(curves.items()):
        colour, radii = COLOURS[number % len(COLOURS)], curve.radii
        lead = f"{name}: " if len(curves) > 1 else ""
        axes.plot(radii, curve.attacked_so_far, "-", color=colour, label=f"{lead}gradient ascent")
        axes.plot(radii, curve.attacked, "o", color=colour, markersize=4)
        axes.plot(radii, curve.sampled_so_far, "--", color=colour, label=f"{lead}random noise")
        axes.plot(radii, curve.sampled, "o", color=colour, markersize=4, fillstyle="none")
        if curve.bound:
            axes.plot(radii, curve.bound, ":", color=colour, label=f"{lead}certified bound")
    first = next(iter(curves.values()))
    if first.output == "softmax":
        low, high = first.radii[0], first.radii[-1]
        lengths = [low + (high - low) * i / 50 for i in range(51)]
        most = [math.sqrt(2) / r for r in lengths]
        axes.plot(lengths, most, "-.", color="#8a8f98", linewidth=1, label="√2 / r: saturation")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(LogFormatterSciNotation())
    axes.set_xlim(left=0)
    axes.set_xlabel("r, Euclidean, input units")
    axes.set_ylabel(f"|f(x+e) − f(x)| / |e|, f = {first.output}")
    axes.grid(alpha=0.3, which="both", linewidth=0.5)
    # above the panel, where no line runs
    axes.legend(frameon=False, fontsize=8, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))


@plainly
def draw_layers(found: Layers) -> Figure:
    """A line per layer, from random noise over gradient ascent to the certified bound."""
    chain = found.chain
    figure = blank(6.4, 1.3 + 0.3 * len(chain))
    axes, places = figure.subplots(), range(len(chain))
    for place, layer in zip(places, chain, strict=True):
        ends = [layer.sampled, layer.attacked if layer.bound is None else layer.bound]
        axes.plot(ends, [place, place], color="#8a8f98", linewidth=1, zorder=1)
    axes.plot([c.sampled for c in chain], places, "o", color=COLOURS[0], fillstyle="none",
              label="random noise")  # fmt: skip
    axes.plot([c.attacked for c in chain], places, "o", color=COLOURS[0], label="gradient ascent")
    known = [(c.bound, place) for place, c in zip(places, chain, strict=True) if c.bound]
    if known:
        axes.plot(*zip(*known, strict=True), "|", color=COLOURS[1], markersize=14,
                  markeredgewidth=2, label="certified bound")  # fmt: skip
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_yticks(places, [c.name for c in chain], fontsize=8)
    axes.invert_yaxis()
    axes.margins(y=0.5 / len(chain))
    axes.set_xlabel("|f(x+e) − f(x)| / |e|, f = what the layer does to what it reads")
    axes.grid(axis="x", alpha=0.3, which="both", linewidth=0.5)
    figure.legend(frameon=False, fontsize=8, ncols=3, loc="outside upper center")
    return figure
