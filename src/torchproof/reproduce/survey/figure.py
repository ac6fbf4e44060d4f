"""Certified accuracy and seconds of every method on every network, as two tables of colours."""

from __future__ import annotations

import math

from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize

from torchproof.evaluate.survey import APPROACHES, Survey
from torchproof.evaluate.survey.record import Cell, Row
from torchproof.report.pictures import blank, content, plainly

CLEAN, ATTACKED = "classified correctly", "not broken by attacks"
Table = list[list[float]]
NOTHING = math.nan


@plainly
def drawn(found: Survey) -> bytes:
    """A PNG: a row for each approach, a column for each network and threat; to the left how much it
    certifies, below what attacks leave, to the right its median seconds.
    """
    shown = [r.method for r in found.cells[0].rows if not r.same and r.claimed is None]
    names = [_named(key) for key in shown]
    shares = [[_share(_of(cell, key)) for cell in found.cells] for key in shown]
    limits = [[getattr(cell, k).value for cell in found.cells] for k in ("clean", "attacked")]
    times = [[_seconds(_of(cell, key)) for cell in found.cells] for key in shown]
    none = [[NOTHING] * len(found.cells)] * 2
    wide, high = 4.5 + 2 * max(0.85 * len(found.cells), 1.9), 2.2 + 0.3 * (len(shown) + 2)
    figure = blank(wide, high)
    left, right = figure.subplots(1, 2, sharey=True)
    words = [[f"{100 * v:.0f}" for v in row] for row in [*limits, *shares]]
    for i, key in enumerate(shown, len(limits)):
        for j, cell in enumerate(found.cells):  # of how many, where that is not all
            known = _of(cell, key).certified
            if known is not None and known.n != cell.clean.n:
                words[i][j] += f" ({known.n})"
    _colours(left, [*limits, *shares], words, Normalize(0, 1), "Blues")
    left.set_yticks(range(len(shares) + 2), [CLEAN, ATTACKED, *names])
    left.set_title("certified accuracy, % (of how many images, where of few)")
    text = [[_told(v) for v in row] for row in [*none, *times]]
    top = max([found.seconds, *(v for row in times for v in row if v == v)])
    _colours(right, [*none, *times], text, LogNorm(1e-3, top), "Oranges", 2)
    right.set_title(f"median seconds of an image (limit {found.seconds:g})")
    columns = [f"{c.network}\n{c.norm}:{c.eps_text}\n{c.training}" for c in found.cells]
    for axes in (left, right):
        axes.axhline(1.5, color="black", linewidth=1.2)
        axes.set_xticks(range(len(columns)), columns, fontsize=7, rotation=35, ha="right")
    return content(figure, dpi=130)


def _named(key: str) -> str:
    others = [r.name for r in APPROACHES if r.key == key]
    same = [a.name for a in APPROACHES if a.kind == "verifier" and a.key in EQUAL.get(key, ())]
    return " = ".join([*others, *same]) or key


EQUAL = {"crown": ("deeppoly", "cnn-cert"), "fast-lin": ("wk",)}


def _of(cell: Cell, key: str) -> Row:
    return next(row for row in cell.rows if row.method == key)


def _share(row: Row) -> float:
    return NOTHING if row.certified is None else row.certified.value


def _seconds(row: Row) -> float:
    return NOTHING if row.median_seconds is None else max(row.median_seconds, 1e-3)


def _told(seconds: float) -> str:
    return f"{seconds:.1f}" if seconds >= 1 else f"{seconds:.2f}" if seconds >= 0.01 else "<.01"


def _colours(
    axes: Axes, values: Table, text: list[list[str]], scale: Normalize, colours: str, first: int = 0
) -> None:
    """Cells with their numbers, "–" where there is none, from the row `first` on."""
    axes.imshow(values, aspect="auto", norm=scale, cmap=colours)
    for i, row in enumerate(values[first:], first):
        for j, value in enumerate(row):
            known = value == value
            dark = known and float(scale(value)) > 0.6
            axes.text(j, i, text[i][j] if known else "–", ha="center", va="center", fontsize=8,
                      color="white" if dark else "black")  # fmt: skip
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
