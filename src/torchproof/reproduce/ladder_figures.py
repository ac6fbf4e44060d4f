"""Of `reproduce ladder`: what is stored, the table, the six items of the verdict, the picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from statistics import fmean
from typing import Literal

from matplotlib.figure import Figure

from torchproof.report.pictures import content
from torchproof.reproduce.experiment import Row, Verdict
from torchproof.reproduce.figures import Figures
from torchproof.train.ladder import LABEL

__all__ = ["EPS", "GRID", "LABEL", "NETWORKS", "Cell", "items", "judge", "picture", "rows"]

NETWORKS = ("original", "LADDER", "PGD-AT")
EPS = (0.1, 0.3)
GRID = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5)  # of the mean length of a latent
SVM_ACCURACY = {"mnist": 0.97}  # 0.90 elsewhere
DECODER_LOSS, CLEAN_LOSS, GAIN = 0.03, 0.01, 0.15


class Cell(Figures):
    """One data set and seed; counts are of n test images.

    latent: mean length; beta_off: the largest |beta - 1|; errors: of the decoder, by epoch;
    decoded: right on G(e(x)); scores, flips: at each dose of GRID; guided: right on boundary-guided
    images of test images; white, transfer: right under attack, by "network eps".
    """

    data: str
    seed: int
    n: int
    latent: float
    beta_off: float
    beta_inside: bool
    errors: tuple[float, ...]
    test_error: float
    decoded: int
    svm_median: float
    svm_least: float
    scores: tuple[float, ...]
    flips: tuple[int, ...]
    clean: dict[str, int]
    guided: dict[str, int]
    white: dict[str, int]
    transfer: dict[str, int]

    @property
    def text(self) -> str:
        shares = {"decoded": self.decoded, **{f"clean {k}": v for k, v in self.clean.items()}}
        shares |= {f"guided {k}": v for k, v in self.guided.items()}
        shares |= {f"white {k}": v for k, v in self.white.items()}
        shares |= {f"transfer {k}": v for k, v in self.transfer.items()}
        found = ", ".join(f"{name} {hits / self.n:.3f}" for name, hits in shares.items())
        flips = " ".join(f"{hits / self.n:.3f}" for hits in self.flips)
        return f"SVMs {self.svm_median:.3f}, flips {flips}, {found}"


def rows(cells: Sequence[Cell]) -> tuple[Row, ...]:
    """The figures behind each of the six items."""
    table: list[Row] = []
    for data in dict.fromkeys(cell.data for cell in cells):
        mine = [cell for cell in cells if cell.data == data]
        table += _rows(data, mine)
    return tuple(table)


def _rows(data: str, mine: Sequence[Cell]) -> list[Row]:
    n = [cell.n for cell in mine]

    def share(what: str, hits: Sequence[int]) -> Row:
        return Row.share(f"{data}: {what}", hits, n)

    def mean(what: str, values: Sequence[float], unit: Literal["%", ""] = "") -> Row:
        return Row.per_seed(f"{data}: {what}", values, sum(n), unit)

    table = [
        mean("1. largest distance of beta from 1", [c.beta_off for c in mine]),
        share("2. original, clean", [c.clean[NETWORKS[0]] for c in mine]),
        share("2. original on G(e(x))", [c.decoded for c in mine]),
        mean("2. mean squared error of G(e(x))", [c.test_error for c in mine]),
        mean("3. SVM accuracy, median of pairs", [c.svm_median for c in mine], "%"),
        mean("3. SVM accuracy, least of pairs", [c.svm_least for c in mine], "%"),
    ]
    for at, dose in enumerate(GRID):
        moved = f"at {dose} latent lengths"
        table.append(mean(f"4. SVM score {moved}", [c.scores[at] for c in mine]))
        table.append(share(f"4. decision changed {moved}", [c.flips[at] for c in mine]))
    for name in NETWORKS:
        hits = [c.guided[name] for c in mine]
        table.append(share(f"5. {name} on boundary-guided images", hits))
        table.append(share(f"5. {name}, clean", [c.clean[name] for c in mine]))
    for eps in EPS:
        for name in NETWORKS:
            white, stored = ([of(c)[f"{name} {eps}"] for c in mine] for of in (_white, _stored))
            table.append(share(f"6. {name}, white-box APGD-CE and DLR, eps {eps}", white))
            what = f"6. {name}, stored PGD images of the original, eps {eps}"
            table.append(share(what, stored))
    return table


def _white(cell: Cell) -> dict[str, int]:
    return cell.white


def _stored(cell: Cell) -> dict[str, int]:
    return cell.transfer


def items(data: str, mine: Sequence[Cell]) -> Iterator[tuple[str, bool]]:
    """The six items of the acceptance, in means over seeds, and whether each is met."""
    first, second, third = NETWORKS
    yield "1 beta in its interval", all(c.beta_inside for c in mine)
    lost = fmean((c.clean[first] - c.decoded) / c.n for c in mine)
    falls = all(after <= before for c in mine for before, after in pairwise(c.errors))
    near = lost <= DECODER_LOSS or data != "mnist"  # asked of MNIST alone
    yield f"2 decoder loses {100 * lost:.1f} points, error falls: {falls}", near and falls
    svm = fmean(c.svm_median for c in mine)
    yield f"3 SVMs {100 * svm:.1f} %", svm >= SVM_ACCURACY.get(data, 0.90)
    doses = range(len(GRID))
    flips = [fmean(c.flips[at] / c.n for c in mine) for at in doses]
    scores = [fmean(c.scores[at] for c in mine) for at in doses]
    rises = all(b >= a - 0.01 for a, b in pairwise(flips)) and scores == sorted(scores)
    yield (
        f"4 decisions changed from {100 * flips[0]:.1f} to {100 * flips[-1]:.1f} %",
        rises and flips[0] < 0.10 and flips[-1] > 0.50,
    )
    before, after = (fmean(c.guided[name] / c.n for c in mine) for name in (first, second))
    clean = fmean((c.clean[second] - c.clean[first]) / c.n for c in mine)
    yield (
        f"5 guided images {100 * before:.1f} to {100 * after:.1f} %, clean {100 * clean:+.1f}",
        before < 0.80 and after - before >= GAIN and clean >= -CLEAN_LOSS,
    )
    white = {
        name: [fmean(c.white[f"{name} {eps}"] / c.n for c in mine) for eps in EPS]
        for name in (second, third)
    }
    stored = fmean(c.transfer[f"{second} {EPS[-1]}"] / c.n for c in mine)
    told = ", so not linf-robust" if white[second][-1] < 0.10 else ""
    yield (
        f"6 {second} keeps {100 * white[second][-1]:.1f} % white-box at {EPS[-1]}{told}, "
        f"{100 * stored:.1f} % on stored attack images, {third} {100 * white[third][-1]:.1f} %",
        all(a <= b for a, b in zip(white[second], white[third], strict=True)),
    )


def judge(cells: Sequence[Cell]) -> tuple[Verdict, str]:
    """Are all six items met on every data set? Boundary-guided images that fine-tuning does not
    help contradict.
    """
    names = dict.fromkeys(cell.data for cell in cells)
    found = {data: list(items(data, [c for c in cells if c.data == data])) for data in names}
    text = "; ".join(
        f"{data}: " + ", ".join(f"{what} ({'met' if met else 'missed'})" for what, met in of)
        for data, of in found.items()
    )
    helped = [c.guided[NETWORKS[1]] > c.guided[NETWORKS[0]] for c in cells]
    if not any(helped):
        return "contradicts", f"{text}; {LABEL}"
    met = all(met for of in found.values() for _, met in of)
    return "shows" if met else "does not show at this scale", f"{text}; {LABEL}"


def picture(cells: Sequence[Cell]) -> bytes:
    """Per data set: decisions changed by dose, and accuracy under each attack (PNG)."""
    names = list(dict.fromkeys(cell.data for cell in cells))
    figure = Figure(figsize=(9, 3.2 * len(names)), layout="constrained")
    grid = figure.subplots(len(names), 2, squeeze=False)
    for (left, right), data in zip(grid, names, strict=True):
        mine = [cell for cell in cells if cell.data == data]
        for cell in mine:
            left.plot(GRID, [100 * hits / cell.n for hits in cell.flips], marker=".", alpha=0.7)
        left.set_xlabel("distance moved, in mean latent lengths")
        left.set_ylabel("decision changed, %")
        left.set_title(data, fontsize=9)
        for name, colour in zip(NETWORKS, ("#8a8f98", "#1f6feb", "#d29922"), strict=True):
            for cell in mine:
                columns = {"clean": cell.clean[name], "guided": cell.guided[name]}
                columns |= {f"stored {eps}": cell.transfer[f"{name} {eps}"] for eps in EPS}
                columns |= {f"white-box {eps}": cell.white[f"{name} {eps}"] for eps in EPS}
                values = [100 * hits / cell.n for hits in columns.values()]
                label = name if cell is mine[0] else None
                right.scatter(range(len(values)), values, s=16, color=colour, label=label)
        right.set_xticks(range(len(columns)), columns, rotation=25, ha="right", fontsize=8)
        right.set_ylabel("accuracy, %")
        right.legend(frameon=False, fontsize=8)
        for axes in (left, right):
            axes.set_ylim(-2, 102)
            axes.grid(axis="y", alpha=0.3)
    return content(figure)
