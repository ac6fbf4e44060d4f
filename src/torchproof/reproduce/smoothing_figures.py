"""Pages and pictures of certification logs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from torchproof.report.pictures import blank, content, plainly
from torchproof.verify.smoothing import Log
from torchproof.verify.smoothing.theories import NEYMAN_PEARSON


@dataclass(frozen=True, eq=False)
class Found:
    """A log, its noise, the largest radius at the usual alpha, ACR by theory, how many distinct
    radii a theory puts above Neyman-Pearson, and what was published of it.
    """

    name: str
    words: str
    sigma: float
    log: Log
    largest: float
    acr: Mapping[str, float]
    above: Mapping[str, int]
    published: float | None
    trainings: int
    accuracies: tuple[float, ...]
    known: tuple[float, ...]


def page(found: Mapping[str, Found]) -> str:
    """Two tables in Markdown: the logs, and the theories."""
    lines = [
        "# Certification logs",
        "",
        "Average certified radius (ACR) of each stored log, wrong and abstained images counting 0, "
        "beside what was published: of that log, or the mean of five trainings of which it is one. "
        "Largest: radius in the log, and the largest that 100,000 samples give at alpha 0.001.",
        "",
        "| log | images | sigma | ACR | published | certified at 0 / .25 / .5 / .75, % | abstained "
        "| largest in it | largest possible |",
        "|---|---:|---:|---:|---|---|---:|---:|---:|",
    ]
    lines += [_line(f) for f in found.values()]
    theories = list(next(iter(found.values())).acr)
    lines += [
        "",
        "# The same bounds under other theories",
        "",
        "Each logged radius r stands for a bound pA = Phi(r / sigma), with pB = 1 - pA. ACR that "
        "theories of the l2 radius make of these bounds:",
        "",
        f"| log | logged | {' | '.join(theories)} |",
        f"|---|---:{'|---:' * len(theories)}|",
    ]
    for f in found.values():
        cells = [f"{f.log.acr:.3f}", *(f"{f.acr[by]:.3f}" for by in theories)]
        lines.append(f"| {f.words} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _line(f: Found) -> str:
    known = "–" if f.published is None else f"{f.published:.3f}"
    note = f"{known}, mean of {f.trainings}" if f.trainings > 1 else known
    own = " / ".join(f"{100 * a:.1f}" for a in f.accuracies)
    if f.known:
        own += f" (published {' / '.join(f'{100 * a:.1f}' for a in f.known)})"
    top = f"{f.log.radii.max():.3g}"
    cells = [f.words, f"{len(f.log)}", f"{f.sigma:g}", f"{f.log.acr:.3f}", note, own,
             f"{100 * f.log.abstained:.1f} %", top, f"{f.largest:.3f}"]  # fmt: skip
    return f"| {' | '.join(cells)} |"


@plainly
def picture(found: Mapping[str, Found]) -> bytes:
    """Certified accuracy over the radius, a panel per data set, and ACR by theory, as PNG."""
    figure = blank(11, 3.8)
    left, middle, right = figure.subplots(1, 3)
    for axes, start in ((left, "CIFAR-10"), (middle, "MNIST")):
        for f in found.values():
            if f.words.startswith(start):
                top = float(f.log.radii.max())
                radii = np.linspace(0, top, 200)
                values = [100 * f.log.accuracy(float(r)) for r in radii]
                axes.plot(radii, values, label=f.words.split(", ", 1)[1], lw=1)
        axes.set_title(start)
        axes.set_xlabel("l2 radius")
        axes.set_ylim(0, 100)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=6)
    left.set_ylabel("certified accuracy, %")
    names = list(next(iter(found.values())).acr)
    for place, by in enumerate(names[::-1]):
        shares = [100 * f.acr[by] / f.log.acr for f in found.values()]
        right.barh(place, float(np.mean(shares)), color="#1f6feb", alpha=0.35)
        right.scatter(shares, [place] * len(shares), color="#1f6feb", s=9)
    right.set_yticks(range(len(names)), names[::-1], fontsize=7)
    right.set_xlabel(f"ACR, % of {NEYMAN_PEARSON} (a dot per log)")
    right.grid(axis="x", alpha=0.3)
    return content(figure, dpi=130)
