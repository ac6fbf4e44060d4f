"""Of `reproduce rat`: what is measured of a network, the table, the verdict, the picture."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import nn

from torchproof.attack.catalogue import fgsm, pgd
from torchproof.attack.combine import Attack, Restarts
from torchproof.attack.run import Run
from torchproof.attack.universal import Semantic
from torchproof.attack.untouched import untouched
from torchproof.core.objectives import Margin
from torchproof.core.threats import Threat
from torchproof.data.dataset import Dataset
from torchproof.evaluate import evaluate
from torchproof.report.pictures import content
from torchproof.reproduce.experiment import Row, Verdict
from torchproof.reproduce.figures import Figures
from torchproof.train.region_round import LABEL, resisted

__all__ = [
    "KINDS", "LABEL", "MANY_ROUNDS", "ONE_ROUND", "Cell", "Patterns", "judge", "measured",
    "picture", "rows",
]  # fmt: skip

ONE_ROUND, MANY_ROUNDS = "RAT, 1 round", "RAT, 4 rounds"
KINDS = ("base", ONE_ROUND, MANY_ROUNDS, "random patterns", "FGSM-AT", "PGD-AT")
COLUMNS = ("clean", "FGSM", "PGD-15", "PGD-40, 5 restarts", "fast suite")
JUDGED = ("FGSM", "PGD-15")
OVER_BASE, OVER_RANDOM = 0.10, 0.08


class Cell(Figures):
    """One network. right: of n test images, those still right under each of COLUMNS; first: (right,
    asked) on the patterns of round 1; fresh: success of new patterns, by class.
    """

    data: str
    kind: str
    seed: int
    n: int
    right: dict[str, int]
    first: tuple[int, int]
    fresh: tuple[float, ...]

    @property
    def text(self) -> str:
        parts = [f"{name} {hits / self.n:.3f}" for name, hits in self.right.items()]
        hits, of = self.first
        fresh = statistics.fmean(self.fresh)
        return ", ".join([*parts, f"on the first patterns {hits / of:.3f}", f"fresh {fresh:.3f}"])


class Patterns(Figures):
    """Of the base network's patterns: success on test images at both eps, likeness to the class."""

    data: str
    n: int
    strong: tuple[float, ...]
    weak: tuple[float, ...]
    alike: tuple[float, ...]


def attacks(threat: Threat) -> dict[str, Attack]:
    """The single attacks among COLUMNS."""
    restarted = Restarts(pgd(threat, 40, 0.1, Margin()), 5)
    return {"FGSM": fgsm(threat), "PGD-15": pgd(threat, 15), "PGD-40, 5 restarts": restarted}


def measured(
    model: nn.Module, test: Dataset, weak: Threat, first: Semantic, strong: Threat, seed: int
) -> tuple[dict[str, int], tuple[int, int]]:
    """Images still right under each of COLUMNS; (right, asked) on the patterns `first`."""
    with untouched(model), torch.no_grad():
        right = model(test.x).argmax(1) == test.y
        on_first = resisted(model, test.x, test.y, first, strong)
    hits = {"clean": int(right.sum())}
    at = right.nonzero()[:, 0]
    for name, attack in attacks(weak).items():
        lost = attack(model, test.x[at], test.y[at], run=Run(seed=seed, ids=at)).lost
        hits[name] = len(at) - int(lost.sum())
    report = evaluate(model, test, weak, suite="fast", seed=seed, save_adversarial=False)
    hits["fast suite"] = round(report.robust_accuracy * len(test))
    return hits, on_first


def rows(cells: Sequence[Cell], patterns: Sequence[Patterns]) -> tuple[Row, ...]:
    """The patterns of the base network, all networks under all attacks, and the gains judged."""
    table: list[Row] = []
    for data in dict.fromkeys(cell.data for cell in cells):
        known = [p for p in patterns if p.data == data]
        table += _of_patterns(data, known)
        for kind in KINDS:
            mine = [c for c in cells if (c.data, c.kind) == (data, kind)]
            table += _of_network(f"{data}, {kind}", mine) if mine else []
        for name in JUDGED:
            for other in (k for k in KINDS if k not in (ONE_ROUND, MANY_ROUNDS)):
                gains = _gains(cells, data, name, other)
                what = f"{data}, {name}: {MANY_ROUNDS} minus {other}"
                n = sum(c.n for c in cells if c.data == data) // len(KINDS)
                table.append(Row.per_seed(what, gains, n, least=-1.0))
    return tuple(table)


def _of_patterns(data: str, known: Sequence[Patterns]) -> list[Row]:
    strong = [statistics.fmean(p.strong) for p in known]
    weak = [statistics.fmean(p.weak) for p in known]
    likes, n = [sum(v > 0 for v in p.alike) for p in known], sum(p.n for p in known)
    return [
        Row.per_seed(f"{data}, base: success of its patterns, mean over classes", strong, n),
        Row.per_seed(f"{data}, base: the same at the eps of the attacks", weak, n),
        Row.share(
            f"{data}: patterns that correlate with their class",
            likes,
            [len(p.alike) for p in known],
        ),
    ]


def _of_network(head: str, mine: Sequence[Cell]) -> list[Row]:
    n = [cell.n for cell in mine]
    table = [
        Row.share(f"{head}: {name}", [cell.right[name] for cell in mine], n) for name in COLUMNS
    ]
    first = [cell.first for cell in mine]
    what = f"{head}: accuracy on the patterns of round 1"
    table.append(Row.share(what, [hits for hits, _ in first], [of for _, of in first]))
    fresh = [statistics.fmean(cell.fresh) for cell in mine]
    return [*table, Row.per_seed(f"{head}: success of fresh patterns", fresh, sum(n))]


def _gains(cells: Sequence[Cell], data: str, name: str, other: str) -> list[float]:
    """By how much four rounds are better than `other`, per seed."""
    of = {(c.kind, c.seed): c.right[name] / c.n for c in cells if c.data == data}
    seeds = sorted({seed for _, seed in of})
    return [of[MANY_ROUNDS, seed] - of[other, seed] for seed in seeds]


def judge(cells: Sequence[Cell]) -> tuple[Verdict, str]:
    """Does it show on every data set? The text says so of each by itself."""
    found = {data: _judged(cells, data) for data in dict.fromkeys(cell.data for cell in cells)}
    verdicts = {verdict for verdict, _ in found.values()}
    text = "; ".join(f"{data} {verdict}: {text}" for data, (verdict, text) in found.items())
    return verdicts.pop() if len(verdicts) == 1 else "does not show at this scale", text


def _judged(cells: Sequence[Cell], data: str) -> tuple[Verdict, str]:
    """In means over seeds, four rounds gain at least 10 points over the base and 8 over random
    patterns, against FGSM and against PGD. No gain over the base contradicts.
    """
    gain = {
        other: [statistics.fmean(_gains(cells, data, name, other)) for name in JUDGED]
        for other in ("base", "random patterns", "FGSM-AT")
    }
    base, random, tuned = (
        " and ".join(f"{100 * value:+.1f}" for value in mine) + " points" for mine in gain.values()
    )
    text = (
        f"four rounds gain {base} over the base and {random} over random patterns "
        f"({', '.join(JUDGED)}), and {tuned} over FGSM-AT on the same images"
    )
    if max(gain["base"]) <= 0:
        return "contradicts", text
    shows = min(gain["base"]) >= OVER_BASE and min(gain["random patterns"]) >= OVER_RANDOM
    return ("shows" if shows else "does not show at this scale"), text


def picture(cells: Sequence[Cell], shown: Semantic) -> bytes:
    """Accuracy under each attack by kind, a dot per seed; below, the patterns of round 1 (PNG)."""
    names, count = list(dict.fromkeys(cell.data for cell in cells)), len(shown.values)
    figure = Figure(figsize=(5 * len(names), 5), layout="constrained")
    halves: Any = figure.subfigures(2, 1, height_ratios=(3, 1))
    upper, lower = halves
    for axes, data in zip(upper.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for name, colour in zip(JUDGED, ("#8a8f98", "#1f6feb"), strict=True):
            for at, kind in enumerate(KINDS):
                mine = [c for c in cells if (c.data, c.kind) == (data, kind)]
                values = [100 * c.right[name] / c.n for c in mine]
                label = name if not at else None
                axes.scatter([at] * len(mine), values, s=16, color=colour, label=label)
        axes.set_xticks(range(len(KINDS)), KINDS, rotation=25, ha="right", fontsize=8)
        axes.set_ylim(-2, 102)
        axes.set_ylabel("accuracy, %")
        axes.set_title(data, fontsize=9)
        axes.grid(axis="y", alpha=0.3)
        axes.legend(frameon=False, fontsize=8)
    panels = lower.subplots(1, count, squeeze=False)[0]
    top = float(shown.values.abs().max())
    for axes, number, value in zip(panels, shown.classes.tolist(), shown.values, strict=True):
        axes.imshow(value.mean(0).numpy(), cmap="gray", vmin=-top, vmax=top)
        axes.set_title(str(number), fontsize=8)
        axes.axis("off")
    return content(figure)
