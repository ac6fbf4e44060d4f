"""Of `reproduce titration`: the picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from torchproof.core.ranking import Roc
from torchproof.report.pictures import blank, content, plainly
from torchproof.report.titration_plots import groups_on, roc_on
from torchproof.reproduce.titration_figures import ALL, Reading, Verdict, kinds_of, split


@plainly
def picture(groups: Sequence[Sequence[Reading]], by_images: Sequence[Sequence[Verdict]]) -> bytes:
    """Curves by kind, scores by kind, ROC curves: a PNG."""
    figure = blank(14.5, 4.6)
    curves, scores, roc = figure.subplots(1, 3, width_ratios=(1.25, 1, 1))
    every = [one for group in groups for one in group]
    kinds = list(dict.fromkeys(one.entry.kind for one in every))
    groups_on(curves, {k: [o.images for o in every if o.entry.kind == k] for k in kinds})
    curves.set_title("T, mean and range, by kind of network", fontsize="medium")
    _strips(scores, [v for bank in by_images for v in bank], kinds)
    roc_on(roc, _rocs(by_images))
    roc.set_title("each bank judged by the others", fontsize="medium")
    return content(figure, dpi=110)


def _rocs(banks: Sequence[Sequence[Verdict]]) -> dict[str, Roc]:
    every = [v for bank in banks for v in bank]
    found = {}
    for kind in (ALL, *kinds_of(banks)):
        clean, trojaned = ([v.score for v in group] for group in split(every, kind))
        found[kind] = Roc.of(clean, trojaned)
    return found


def _strips(axes: Axes, every: Sequence[Verdict], kinds: Sequence[str]) -> None:
    """Scores of single networks; filled where the suspected class is the target."""
    for place, kind in enumerate(kinds):
        mine = [v for v in every if v.kind == kind]
        at = place + np.linspace(-0.22, 0.22, len(mine))
        colour = "0.25" if place == 0 else f"C{place - 1}"
        fill = [colour if v.target is None or v.suspected == v.target else "none" for v in mine]
        axes.scatter(at, [v.score for v in mine], s=26, edgecolors=colour, facecolors=fill)
    axes.set_xticks(range(len(kinds)), kinds)
    axes.set_ylabel("score of the scan")
    axes.set_title("networks; hollow: another class suspected", fontsize="medium")
    axes.grid(axis="y", alpha=0.3)
