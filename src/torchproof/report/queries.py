"""Success of attacks against the number of queries, drawn into a picture file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from torchproof.core.errors import InputError
from torchproof.evaluate.queries import QueryCurve
from torchproof.report.pictures import KINDS, blank, plainly, save


def draw_queries(curves: Sequence[QueryCurve], path: Path | str) -> None:
    """One step line per attack, with its 95 % band, over a logarithmic axis of queries.

    The ending of `path` says which kind of picture: png, svg or pdf. Raises InputError for any
    other and for no curve, FileError where the file cannot be written.
    """
    path = Path(path)
    kind = path.suffix.removeprefix(".").lower()
    if kind not in KINDS or not curves:
        raise InputError(
            f"{len(curves)} curves to be drawn into {path.name}",
            f"at least one curve, and a name that ends in {', '.join(KINDS)}",
            "write draw_queries([query_curve(found)], 'queries.png')",
        )
    save(_figure(curves), path)


@plainly
def _figure(curves: Sequence[QueryCurve]) -> Figure:
    figure = blank(6.4, 4)
    axes = figure.add_subplot()
    for curve in curves:
        at, share, low, high = zip(*curve.points(), strict=True)
        label = f"{curve.name} (n = {curve.n})"
        (line,) = axes.step(at, share, where="post", label=label)
        axes.fill_between(
            at, low, high, step="post", color=line.get_color(), alpha=0.15, linewidth=0
        )
    axes.set_xscale("symlog", linthresh=1)
    axes.set_xlim(0, max(curve.limit for curve in curves))
    axes.set_ylim(0, 1)
    axes.set_xlabel("forward and backward samples per example")
    axes.set_ylabel("share of examples broken")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left")
    return figure
