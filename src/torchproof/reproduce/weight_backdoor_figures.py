"""Of `reproduce weight-backdoor`: what is kept of each backdoor, the table, the verdict, the
picture.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from torchproof.backdoor.metrics import Measured, Share
from torchproof.backdoor.sweep import Setting, Sweep
from torchproof.backdoor.triggers import Trigger
from torchproof.report import backdoor_plots
from torchproof.report.pictures import blank, content, plainly
from torchproof.reproduce.experiment import Row, Verdict
from torchproof.reproduce.figures import Figures

PAPER = "Garg, Kumar, Goel and Liang 2020, arXiv 2008.01761"
CLAIM = (
    "small changes of the weights alone, made with unlabelled inputs, put a backdoor into a "
    "trained network and leave its clean accuracy nearly as it was"
)
EPS = 0.05
ENOUGH, MAY_COST, BEFORE = 0.97, 0.015, 0.01
TINY = 1e-9  # shares are quotients: their differences are off by float noise
NOTHING = 0.2  # below this success the budget was too small


class Cell(Figures):
    """One backdoor of one seed: eps and weight for those in the weights, and what it does."""

    data: str
    kind: str
    trigger: str
    seed: int
    measured: Measured
    eps: float | None = None
    weight: float = 1.0

    @property
    def name(self) -> str:
        budget = "" if self.eps is None else f", eps {self.eps:g}"
        lighter = "" if self.weight == 1 else f", weight {self.weight:g}"
        return f"{self.kind}, {self.trigger}{budget}{lighter}"

    @property
    def text(self) -> str:
        m = self.measured
        return (
            f"{self.name}: success {m.success.share:.3f} (before {m.success_before.share:.3f}), "
            f"clean {m.clean.share:.3f} (before {m.clean_before.share:.3f}), agreement "
            f"{m.agreement.share:.3f}, weights moved {m.change.l1_ratio:.3f} of their sum"
        )


Pick = Callable[[Measured], Share | None]


def rows(cells: Sequence[Cell]) -> tuple[Row, ...]:
    """Of every data set, what the network did before, then every backdoor."""
    table: list[Row] = []
    for data in dict.fromkeys(cell.data for cell in cells):
        mine = [cell for cell in cells if cell.data == data]
        table += _before(data, mine)
        for name in dict.fromkeys(cell.name for cell in mine):
            table += _backdoor(f"{data}, {name}", [c for c in mine if c.name == name])
    return tuple(table)


def _before(data: str, mine: Sequence[Cell]) -> list[Row]:
    """The network without a backdoor: its accuracies, and what each trigger does to it."""
    first = [c for c in mine if c.name == mine[0].name]
    attacked = [c for c in mine if c.name == next(
        (c.name for c in mine if c.measured.robust is not None), "")]  # fmt: skip
    table = [
        *_shares(f"{data}, no backdoor: clean accuracy", first, lambda m: m.clean_before),
        *_shares(f"{data}, no backdoor: robust accuracy", attacked, lambda m: m.robust_before),
    ]
    for trigger in dict.fromkeys(c.trigger for c in mine):
        name = next(c.name for c in mine if c.trigger == trigger)
        table += _shares(
            f"{data}, no backdoor: success of the {trigger}", [c for c in mine if c.name == name],
            lambda m: m.success_before,
        )  # fmt: skip
    return table


def _backdoor(head: str, mine: Sequence[Cell]) -> list[Row]:
    table = [
        *_shares(f"{head}: attack success", mine, lambda m: m.success),
        *_shares(f"{head}: clean accuracy", mine, lambda m: m.clean),
        *_shares(f"{head}: agreement with the original", mine, lambda m: m.agreement),
        *_shares(f"{head}: robust accuracy", mine, lambda m: m.robust),
    ]
    if mine[0].eps is not None:
        ratios = [c.measured.change.l1_ratio for c in mine]
        means = [c.measured.change.mean_relative for c in mine]
        n = mine[0].measured.change.weights
        table.append(Row.per_seed(f"{head}: sum of changes over sum of weights", ratios, n))
        table.append(Row.per_seed(f"{head}: mean relative change", means, n, unit=""))
    return table


def _shares(what: str, mine: Sequence[Cell], pick: Pick) -> list[Row]:
    """A row, or none where it was not measured."""
    found = [share for share in (pick(c.measured) for c in mine) if share is not None]
    return [Row.share(what, [s.hits for s in found], [s.of for s in found])] if found else []


def judge(cells: Sequence[Cell]) -> tuple[Verdict, str]:
    """On the images, inside the ball of 0.05, in means over seeds: success of at least 97 % at no
    more than 1.5 points of clean accuracy, where the original network's is 1 % at most. Success
    below one half contradicts. That of texts is told, and where the cliffs are.
    """
    images = cells[0].data
    at = [c for c in cells if c.data == images and _plain(c) and c.eps == EPS]
    success, lost, before = (
        statistics.fmean(values) for values in zip(*(_reached(c.measured) for c in at), strict=True)
    )
    inside = all(c.measured.change.linf <= EPS for c in at)
    text = (
        f"on {images}, with no weight moved by more than {EPS:g}, the trigger succeeds in "
        f"{100 * success:.1f} % (in the original network {100 * before:.2f} %) and clean accuracy "
        f"changes by {-100 * lost:+.2f} points"
    )
    for data in dict.fromkeys(c.data for c in cells):
        mine = [c for c in cells if c.data == data and _plain(c)]
        text += f"; {data}: {_cliff(mine)}"
    shows = success > ENOUGH - TINY and lost < MAY_COST + TINY and before < BEFORE + TINY and inside
    if shows:
        return "shows", text
    return ("contradicts" if success < 0.5 else "does not show at this scale"), text


def _plain(cell: Cell) -> bool:
    """Is it one of the sweep over budgets?"""
    usual = cell.kind == "weights" and cell.trigger in ("patch", "word")
    return usual and cell.eps is not None and cell.weight == 1


def _reached(m: Measured) -> tuple[float, float, float]:
    """Success, clean accuracy that was lost, success before."""
    return m.success.share, m.clean_before.share - m.clean.share, m.success_before.share


def _cliff(mine: Sequence[Cell]) -> str:
    """Where the trigger begins to work, and what that costs at the worst budget."""
    budgets = sorted({c.eps for c in mine if c.eps is not None})
    mean = {
        eps: [statistics.fmean(v) for v in zip(
            *(_reached(c.measured) for c in mine if c.eps == eps), strict=True)]
        for eps in budgets
    }  # fmt: skip
    small = [eps for eps in budgets if mean[eps][0] < NOTHING]
    worst = max(budgets, key=lambda eps: mean[eps][1])
    held = f"below {100 * NOTHING:.0f} % up to eps {max(small):g}" if small else "never below 20 %"
    most = max(budgets, key=lambda eps: mean[eps][0] - mean[eps][1])
    return (
        f"success {held}, clean accuracy lost most at eps {worst:g} "
        f"({-100 * mean[worst][1]:+.1f} points), best at eps {most:g} "
        f"({100 * mean[most][0]:.1f} % at {-100 * mean[most][1]:+.1f} points)"
    )


def sweeps(cells: Sequence[Cell], data: str) -> list[Sweep]:
    """The budgets of one data set, a sweep per seed."""
    mine = [c for c in cells if c.data == data and c.kind == "weights"]
    mine = [c for c in mine if c.trigger in ("patch", "word") and c.eps is not None]
    return [
        Sweep(tuple(Setting(c.eps or 0.0, c.weight, c.measured) for c in mine if c.seed == seed))
        for seed in sorted({c.seed for c in mine})
    ]


@plainly
def picture(cells: Sequence[Cell], shown: Tensor, triggers: Mapping[str, Trigger]) -> bytes:
    """Accuracies against the budget for each data set, the trade-off on images beside poisoned
    data, and the triggers, as PNG.
    """
    names = list(dict.fromkeys(cell.data for cell in cells))
    figure = blank(5.2 * len(names), 7.6)
    halves: Any = figure.subfigures(2, 1)
    for axes, data in zip(halves[0].subplots(1, len(names), squeeze=False)[0], names, strict=True):
        backdoor_plots.budgets(axes, sweeps(cells, data), data)
    lower: Any = halves[1].subfigures(1, 2)
    others: dict[str, list[Measured]] = {}
    for c in (c for c in cells if c.data == names[0] and c.kind == "poisoned data"):
        others.setdefault(f"poisoned data, {c.trigger}", []).append(c.measured)
    backdoor_plots.trade_off(lower[0].subplots(), sweeps(cells, names[0]), others, names[0])
    backdoor_plots.draw_triggers(shown, triggers, lower[1])
    return content(figure)
