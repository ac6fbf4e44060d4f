"""Accuracy against eps as steps with their 95 % band, drawn into a picture file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from torchproof.core.errors import InputError
from torchproof.evaluate.curve import CurveRecord
from torchproof.report.figures import MARKERS
from torchproof.report.pictures import KINDS, blank, plainly, save

LEVELS = 255  # grey levels of an 8-bit image
_FEW_LEVELS = 0.15  # eps up to which they are shown beside input units: people think in them


def draw_curves(curves: Sequence[CurveRecord], path: Path | str) -> None:
    """One step line per curve with its 95 % band, and the fixed-budget evaluations as points with
    their intervals; dotted what the minimum-norm attack found alone, where that is more.

    The ending of `path` says which kind of picture: png, svg or pdf. Raises InputError for any
    other, for no curve and for curves of different norms, FileError where the file cannot be
    written.
    """
    path = Path(path)
    kind = path.suffix.removeprefix(".").lower()
    norms = {curve.norm for curve in curves}
    if kind not in KINDS or len(norms) != 1:
        raise InputError(
            f"{len(curves)} curves of {len(norms)} norms to be drawn into {path.name}",
            f"curves of one norm, and a name that ends in {', '.join(KINDS)}",
            "write draw_curves([found.record], 'curve.png')",
        )
    save(_figure(curves), path)


@plainly
def _figure(curves: Sequence[CurveRecord]) -> Figure:
    figure = blank(6.4, 4.2)
    axes = figure.add_subplot()
    widest = max(curve.max_eps for curve in curves) or 1.0
    for number, curve in enumerate(curves):
        _draw(axes, curve, f"C{number % 10}", MARKERS[number % len(MARKERS)])
    axes.set_xlim(0, widest)
    axes.set_ylim(0, 1.02)
    if curves[0].norm == "l0":
        axes.set_xlabel("ε (l0, values changed)")
    else:
        axes.set_xlabel(f"ε ({curves[0].norm}, input units)")
    if curves[0].norm == "linf" and widest <= _FEW_LEVELS:
        above = axes.secondary_xaxis("top", (_levels, _units))
        above.set_xlabel(f"ε in grey levels (1/{LEVELS})")
    axes.set_ylabel("accuracy")
    axes.grid(alpha=0.3)
    lines, names = axes.get_legend_handles_labels()
    once = dict(zip(reversed(names), reversed(lines), strict=True))  # the first of each name
    axes.legend(once.values(), once, loc="upper right", fontsize="small", reverse=True)
    return figure


def _levels(eps: Any) -> Any:
    return eps * LEVELS


def _units(levels: Any) -> Any:
    return levels / LEVELS


def _draw(axes: Axes, curve: CurveRecord, colour: str, marker: str) -> None:
    at = curve.curve
    name = f"{curve.model} (n = {curve.n})"
    axes.step(at.eps, at.accuracy, where="post", color=colour, label=name)
    axes.fill_between(at.eps, at.low, at.high, step="post", color=colour, alpha=0.15, linewidth=0)
    alone = curve.uncorrected
    if alone != at:
        axes.step(
            alone.eps, alone.accuracy, where="post", color=colour, linestyle=":",
            label="minimum-norm attack alone",
        )  # fmt: skip
    checks = [check for check in curve.checks if check.eps <= curve.max_eps]
    if checks:
        share = [check.accuracy for check in checks]
        low, high = zip(*(check.accuracy_ci95 for check in checks), strict=True)
        axes.errorbar(
            [check.eps for check in checks], share,
            yerr=[[s - v for s, v in zip(share, low, strict=True)],
                  [v - s for s, v in zip(share, high, strict=True)]],
            color=colour, marker=marker, markersize=5, linestyle="", capsize=3, elinewidth=1,
            label=f"attacks at a fixed ε ({checks[0].suite})",
        )  # fmt: skip
