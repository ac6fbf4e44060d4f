"""Pictures of tail indices: histograms with fitted tails, readings with their controls, alpha over
training or width with bands.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter

from torchproof.core.metrics import student
from torchproof.diagnose.stable import Estimate, modulus_quantile, survival
from torchproof.diagnose.tail_checks import SUMS
from torchproof.diagnose.tail_index import TailIndex, Tails, TailTrack
from torchproof.report.pictures import blank, plainly

# What is drawn of readings, with its words and colour.
READINGS = {
    "pooled": ("published reading", "C0"),
    "filtered": ("without exact zeros", "C1"),
    "standardised": ("coordinates over their deviation", "C2"),
    "per_coordinate": ("coordinate by coordinate, median", "C4"),
    "gaussian": ("Gaussian, same deviations", "C7"),
    "correlated": ("Gaussian, same covariance", "0.2"),
}
TOP = 2.6  # of the axes; bands of few seeds may go beyond
WORDS = {name: words for name, (words, _) in READINGS.items()} | {
    "correlated_standardised": "… and over their deviation",
    "gaussian_per_coordinate": "… and coordinate by coordinate",
    "hill": "Hill, largest 5 %",
    "quantile": "quantiles (McCulloch)",
    "characteristic": "characteristic function",
}


@plainly
def draw_tails(found: Tails, title: str = "") -> Figure:
    """Two histograms of moduli on logarithmic axes, of the pooled noise and of the noise that
    `level` makes of it, each with fitted laws; all readings with their intervals.
    """
    figure = blank(11.5, 3.9)
    left, middle, right = figure.subplots(1, 3, width_ratios=(1, 1, 1.1))
    curve = found.curve
    histogram(left, curve.at, curve.pooled, "noise, all coordinates", "C0")
    histogram(left, curve.at, curve.gaussian, "Gaussian, same covariance", "0.35", filled=False)
    stable_line(left, curve.at, min(found.filtered.alpha, 2.0), "C3")
    histogram(middle, curve.at, curve.levelled, "noise, levelled", "C2")
    stable_line(middle, curve.at, curve.alpha, "C3")
    stable_line(middle, curve.at, 2.0, "0.35")
    for axes, words in ((left, "pooled"), (middle, "every coordinate by its own scale")):
        axes.set_title(words, fontsize=10)
        axes.set_xlabel("modulus, in medians")
        axes.legend(frameon=False, fontsize=8, loc="lower left")
    left.set_ylabel("density")
    _listed(right, found)
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


@plainly
def draw_layers(found: TailIndex) -> Figure:
    """All of READINGS, with the Gaussian controls, of every parameter that has them."""
    named = [("all", found.overall), *((e.name, e.tails) for e in found.layers if e.tails)]
    figure = blank(6.8, 1.8 + 0.56 * len(named))
    axes = figure.add_subplot()
    for place, (_, tails) in enumerate(named):
        assert tails is not None
        if place:
            axes.axhline(place - 0.5, color="0.9", lw=0.8)
        for number, (name, (words, colour)) in enumerate(READINGS.items()):
            shift = 0.6 * (number / (len(READINGS) - 1) - 0.5)
            _bar(axes, getattr(tails, name), place + shift, colour, words)
    axes.axvline(2, color="0.5", lw=0.8, ls=":")
    axes.set_yticks(range(len(named)), [name for name, _ in named], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("tail index α (dotted: Gaussian)")
    _legend(figure, axes)
    return figure


@plainly
def draw_track(track: TailTrack) -> Figure:
    """Readings over the steps of a training, with their 95 % intervals as bands."""
    figure = blank(6.4, 4.4)
    axes = figure.add_subplot()
    for name, (words, colour) in READINGS.items():
        each = [getattr(tails, name) for tails in track.tails]
        middle = [e.alpha for e in each]
        low, high = [e.low for e in each], [min(e.high, 3.0) for e in each]
        band(axes, track.steps, middle, low, high, words, colour)
    _finish(axes, "step")
    _legend(figure, axes)
    return figure


def lines_over(
    axes: Axes, at: Sequence[float], runs: Mapping[str, Sequence[Sequence[float]]]
) -> None:
    """For each reading runs[name][i] = its values at at[i], one per seed: the mean line and
    Student's 95 % band over seeds.
    """
    for name, values in runs.items():
        words, colour = READINGS[name]
        middle = [statistics.fmean(v) for v in values]
        ends = [student(v) or (m, m) for v, m in zip(values, middle, strict=True)]
        low, high = ([end[i] for end in ends] for i in (0, 1))
        band(axes, at, middle, low, high, words, colour)
    axes.axhline(2, color="0.5", lw=0.8, ls=":")
    axes.set_ylim(0, TOP)
    axes.grid(alpha=0.3)


def band(
    axes: Axes, at: Sequence[float], middle: Sequence[float], low: Sequence[float],
    high: Sequence[float], words: str, colour: str,
) -> None:  # fmt: skip
    """A line with its band."""
    axes.plot(at, middle, color=colour, marker="o", ms=3, lw=1.4, label=words)
    axes.fill_between(at, low, high, color=colour, alpha=0.15, lw=0)


def plain_log(axes: Axes, at: Sequence[float]) -> None:
    """A logarithmic x axis with the given ticks, as plain numbers."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(at))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())


def histogram(
    axes: Axes, at: Sequence[float], above: Sequence[float], words: str, colour: str,
    filled: bool = True,
) -> None:  # fmt: skip
    """The density of moduli from the shares above the edges `at`, logarithmic both ways."""
    edges, shares = np.asarray(at), -np.diff(np.asarray(above)) / np.diff(np.asarray(at))
    seen = np.where(shares > 1e-12, shares, np.nan)
    if filled:
        axes.stairs(np.nan_to_num(seen, nan=1e-9), edges, color=colour, alpha=0.3, fill=True)
    axes.stairs(seen, edges, color=colour, lw=1, label=words)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(1e-7, 30)


def stable_line(axes: Axes, at: Sequence[float], alpha: float, colour: str) -> None:
    """The density of the modulus of a stable law whose median modulus is 1."""
    edges = np.asarray(at)
    above = survival(edges * modulus_quantile(0.5, alpha), alpha)
    density = -np.diff(above) / np.diff(edges)
    middle = np.sqrt(edges[1:] * edges[:-1])
    words = "Gaussian law" if alpha == 2 else f"stable law, α = {alpha:.2f}"
    axes.plot(middle, np.where(density > 1e-12, density, np.nan), color=colour, lw=1.2, label=words)


def _listed(axes: Axes, found: Tails) -> None:
    """All readings with their intervals, top to bottom."""
    rows = [(words, getattr(found, name)) for name, words in WORDS.items()]
    rows += [(f"levelled, sums of {n}", e) for n, e in zip(SUMS, found.scaling, strict=False)]
    for place, (words, estimate) in enumerate(rows):
        control = words.startswith(("Gaussian", "…"))
        _bar(axes, estimate, place, "0.35" if control else "C0", "")
    axes.axvline(2, color="0.5", lw=0.8, ls=":")
    axes.set_yticks(range(len(rows)), [words for words, _ in rows], fontsize=8.5)
    axes.invert_yaxis()
    axes.set_xlim(0, 3)
    axes.set_xlabel("tail index α (dotted: Gaussian)")
    axes.set_title("grey: what Gaussian noise reads", fontsize=10)
    axes.grid(axis="x", alpha=0.3)


def _bar(axes: Axes, found: Estimate, place: float, colour: str, words: str) -> None:
    """A reading and its interval; one beyond the axis is an arrow at its end."""
    if found.alpha > 3:
        axes.plot([2.95], [place], color=colour, marker=">", ms=5, ls="")
        return
    axes.plot([max(found.low, 0), min(found.high, 3)], [place, place], color=colour, lw=1.4)
    axes.plot([found.alpha], [place], color=colour, marker="o", ms=4, ls="", label=words or None)


def _finish(axes: Axes, words: str) -> None:
    axes.axhline(2, color="0.5", lw=0.8, ls=":")
    axes.set_xlabel(words)
    axes.set_ylabel("tail index α (dotted: Gaussian)")
    axes.set_ylim(0, TOP)
    axes.grid(alpha=0.3)


def _legend(figure: Figure, axes: Axes) -> None:
    lines, names = axes.get_legend_handles_labels()
    once = dict(zip(names, lines, strict=True))
    figure.legend(
        list(once.values()), list(once), frameon=False, fontsize=7, ncols=2,
        loc="outside lower center",
    )  # fmt: skip
