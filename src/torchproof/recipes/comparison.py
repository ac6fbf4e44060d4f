"""What a table of training runs found: means and spreads over seeds, and paired tests against one
row.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from torchproof.core.files import write
from torchproof.core.metrics import clopper_pearson

SCHEMA = "torchproof.comparison/1"
_WEIGHTS = {"best": "weights of the best held-out epoch", "last": "weights of the last epoch"}


class Cell(BaseModel):
    """One network: accuracies on n test images, and what its training cost.

    robust: what the suite left; pgd: under PGD-20 on cross-entropy; loss, train_loss: the mean
    cross-entropy at the images of that PGD, of test and of as many training images, none of them
    held out; standing: ids that the suite left; backward: of the attacks, per epoch and image that
    is trained on, not held out; what images of a second source take counts; seconds: of the
    training; catastrophic, collapsed: epochs so flagged; figures: of the last epoch.
    """

    model_config = ConfigDict(extra="forbid")

    n: int
    clean: float
    robust: float
    pgd: float
    fgsm: float
    loss: float
    train_loss: float
    train_pgd: float
    standing: list[int]
    backward: float
    seconds: float
    epochs: int
    catastrophic: int
    collapsed: int | None = None  # of records that are older, it is not known
    overfitting: float | None
    figures: dict[str, float]
    flags: list[str]


class Difference(BaseModel):
    """A row minus the reference, robust accuracy, paired by seed (t interval and p of the paired t
    test, null for one seed and for equal differences), and by image (exact McNemar test, seeds
    together: gained, lost).
    """

    mean: float
    ci95: tuple[float, float] | None
    p_seeds: float | None
    gained: int
    lost: int
    p_images: float


class Line(BaseModel):
    """A row of the table: its cells by seed, the interval of all images of all seeds together
    (Clopper and Pearson), and its difference to the reference.
    """

    name: str
    method: str
    cells: dict[int, Cell]
    ci95: tuple[float, float]
    difference: Difference | None

    def mean(self, name: str) -> float:
        return statistics.fmean(getattr(cell, name) for cell in self.cells.values())

    def spread(self, name: str) -> float:
        """The sample standard deviation over seeds, 0 for one seed."""
        values = [getattr(cell, name) for cell in self.cells.values()]
        return statistics.stdev(values) if len(values) > 1 else 0.0


class Comparison(BaseModel):
    """The content of comparison.json."""

    schema_version: str = SCHEMA
    data: str
    model: str
    threat: str
    suite: str
    weights: str
    seeds: tuple[int, ...]
    reference: str
    lines: list[Line]
    versions: dict[str, str]

    def write(self, out: Path) -> None:
        """comparison.json and comparison.md, each whole or not at all; raises FileError."""
        write(out / "comparison.json", (self.model_dump_json(indent=1) + "\n").encode())
        write(out / "comparison.md", self.markdown().encode())

    def markdown(self) -> str:
        n = next(iter(self.lines[0].cells.values())).n if self.lines and self.lines[0].cells else 0
        head = (
            f"{self.data}, {self.model}, {self.threat}, suite {self.suite} on {n} images, "
            f"{_WEIGHTS.get(self.weights, self.weights)}, seeds "
            f"{list(self.seeds)}. Means and standard deviations over seeds, in percent; intervals "
            f"of all images of all seeds together (Clopper and Pearson, 95 %); differences in "
            f"robust accuracy to {self.reference}, paired by seed (t interval) and by image (exact "
            "McNemar test). Over-report: PGD-20 minus the suite. Robust loss: mean cross-entropy "
            "at the last iterates of PGD-20; loss gap: of test minus training images; backward: "
            "passes of the attacks per image trained on (not held out) and epoch; seconds: of the "
            "training."
        )
        columns = ["method", "clean", "FGSM", "PGD-20", f"{self.suite}", "95 %",
                   "over-report", f"minus {self.reference}", "p seeds", "p images", "robust loss",
                   "loss gap", "backward", "seconds"]  # fmt: skip
        rows = [head, "", f"| {' | '.join(columns)} |", "|---|" + "---:|" * (len(columns) - 1)]
        rows += [f"| {' | '.join(_row(line))} |" for line in self.lines]
        flagged = [
            f"- {line.name}, seed {seed}: {', '.join(cell.flags)}"
            for line in self.lines
            for seed, cell in line.cells.items()
            if cell.flags
        ]
        return "\n".join([*rows, *_overfitted(self.lines),
                          *(["", "Red flags of the evaluations:", ""] if flagged else []),
                          *flagged]) + "\n"  # fmt: skip


def _overfitted(lines: Sequence[Line]) -> list[str]:
    """Of every row seed by seed, where any run was flagged: means hide which networks collapsed."""
    every = [cell for line in lines for cell in line.cells.values()]
    if not any(cell.catastrophic or cell.collapsed for cell in every):
        return []
    said = [
        "",
        "Catastrophic overfitting and collapse, seed by seed: FGSM minus PGD-20 of the network "
        "judged, in points, its clean accuracy in percent, the epochs flagged as overfitted, at "
        "whatever look, and those flagged as collapsed (no more right than one answer to all).",
        "",
        "| method | gap | clean | epochs flagged | collapsed |",
        "|---|---|---|---|---|",
    ]
    for line in lines:
        cells = list(line.cells.values())
        gaps = ", ".join(f"{100 * (cell.fgsm - cell.pgd):.0f}" for cell in cells)
        clean = ", ".join(f"{100 * cell.clean:.0f}" for cell in cells)
        flagged = ", ".join(f"{cell.catastrophic} of {cell.epochs}" for cell in cells)
        fallen = ", ".join("–" if cell.collapsed is None else str(cell.collapsed) for cell in cells)
        said.append(f"| {line.name} | {gaps} | {clean} | {flagged} | {fallen} |")
    return said


def _row(line: Line) -> list[str]:
    def share(name: str) -> str:
        return f"{100 * line.mean(name):.1f} ± {100 * line.spread(name):.1f}"

    gap = statistics.fmean(c.loss - c.train_loss for c in line.cells.values())
    low, high = line.ci95
    return [
        f"{line.name} `{line.method}`" if line.name != line.method else f"`{line.method}`",
        *(share(name) for name in ("clean", "fgsm", "pgd", "robust")),
        f"{100 * low:.1f} to {100 * high:.1f}",
        f"{100 * (line.mean('pgd') - line.mean('robust')):+.1f}",
        *_differences(line.difference),
        f"{line.mean('loss'):.3f}",
        f"{gap:.3f}",
        f"{line.mean('backward'):.2f}",
        f"{line.mean('seconds'):.0f}",
    ]


def _differences(found: Difference | None) -> list[str]:
    if found is None:
        return ["–"] * 3
    interval = (
        "" if found.ci95 is None else " ({:+.1f} to {:+.1f})".format(*(100 * v for v in found.ci95))
    )
    by_seed = "–" if found.p_seeds is None else f"{found.p_seeds:.2g}"
    return [f"{100 * found.mean:+.1f}{interval}", by_seed, f"{found.p_images:.2g}"]


def line_of(name: str, method: str, cells: dict[int, Cell], reference: dict[int, Cell]) -> Line:
    """A row beside the reference; cells and reference have the same seeds."""
    standing, n = (
        sum(v) for v in zip(*((len(c.standing), c.n) for c in cells.values()), strict=True)
    )
    own = None if cells is reference else difference(list(cells.values()), list(reference.values()))
    ci95 = clopper_pearson(standing, n)
    return Line(name=name, method=method, cells=cells, ci95=ci95, difference=own)


def difference(cells: Sequence[Cell], reference: Sequence[Cell]) -> Difference:
    """Cells minus reference, pair by pair."""
    from scipy import stats  # takes half a second, which every command would pay

    pairs = list(zip(cells, reference, strict=True))
    gains = [a.robust - b.robust for a, b in pairs]
    gained = sum(len(set(a.standing) - set(b.standing)) for a, b in pairs)
    lost = sum(len(set(b.standing) - set(a.standing)) for a, b in pairs)
    mean, ci95, p_seeds = statistics.fmean(gains), None, None
    if len(gains) > 1:
        error = statistics.stdev(gains) / math.sqrt(len(gains))
        half = float(stats.t.ppf(0.975, len(gains) - 1)) * error
        ci95 = (mean - half, mean + half)
        if error > 1e-12:  # equal differences have no t statistic
            p_seeds = float(2 * stats.t.sf(abs(mean / error), len(gains) - 1))
    discordant = gained + lost
    p_images = float(stats.binomtest(gained, discordant).pvalue) if discordant else 1.0
    return Difference(
        mean=mean, ci95=ci95, p_seeds=p_seeds, gained=gained, lost=lost, p_images=p_images
    )
