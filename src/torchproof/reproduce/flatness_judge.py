"""Cells of the flatness experiment, their rows, and what is to be seen in them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence

from scipy import stats

from torchproof.reproduce.experiment import Row, Verdict
from torchproof.reproduce.figures import Figures

PAPER = "Stutz, Hein and Schiele 2021, arXiv 2104.04448"
CLAIM = (
    "robust generalisation goes with flat minima of the robust loss: flatness is lost while "
    "adversarial training overfits, and variants with a lower robust test loss are flatter"
)
AT, AWP, EARLY = "AT", "AWP", "AT, early stopping"
ENOUGH = 0.5  # rank correlation along a training
LEAST = 8  # checkpoints, and variants
SETTING = "ResNet-18, CIFAR-10, linf 8/255"
XI = (0.5, 0.00075)  # of the published average- and worst-case flatness
PUBLISHED = {
    AT: (1.21, 6.48),
    AWP: (0.35, 2.68),
    "TRADES": (0.57, 2.25),
    "MART": (0.73, 3.17),
    "label noise": (0.33, 0.93),
    "label smoothing": (0.65, 2.72),
    "augmentation": (0.49, 0.69),
    "extra data": (0.32, 1.20),
}


class Cell(Figures):
    """One network: losses in nats, flatness in nats. epoch: 0 for variants, else of the run that
    overfits; n, tests: images that flatness and the robust loss were measured on; wrong: of tests,
    where their loss is highest; spread: of the draws; clean_average: of the clean loss.
    """

    name: str
    seed: int
    epoch: int
    n: int
    tests: int
    loss: float
    wrong: int
    train_loss: float
    average: float
    worst: float
    spread: float
    clean_average: float

    @property
    def text(self) -> str:
        at = f", epoch {self.epoch}" if self.epoch else ""
        return (
            f"{self.name}{at}: robust loss {self.train_loss:.3f} (training), {self.loss:.3f} "
            f"(test); flatness {self.average:.3f} (average), {self.worst:.4f} (worst)"
        )


class Curves(Figures):
    """A landscape: losses[j][i] along direction j at radii[i]."""

    radii: tuple[float, ...]
    losses: tuple[tuple[float, ...], ...]


def variants(cells: Iterable[Cell]) -> list[Cell]:
    return [cell for cell in cells if not cell.epoch]


def named(cells: Iterable[Cell], name: str) -> list[Cell]:
    """The cells of a variant, in the order of seeds."""
    return sorted((c for c in variants(cells) if c.name == name), key=lambda c: c.seed)


def names(cells: Iterable[Cell]) -> list[str]:
    return list(dict.fromkeys(cell.name for cell in variants(cells)))


def trajectories(cells: Iterable[Cell]) -> dict[int, list[Cell]]:
    """Seed -> checkpoints of the run that overfits, in order."""
    found: dict[int, list[Cell]] = {}
    for cell in cells:
        if cell.epoch:
            found.setdefault(cell.seed, []).append(cell)
    return {seed: sorted(each, key=lambda c: c.epoch) for seed, each in found.items()}


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """The rank correlation; 0 where one of them does not vary."""
    if len(set(a)) < 2 or len(set(b)) < 2:
        return 0.0
    return float(stats.spearmanr(a, b).statistic)


def interval(rho: float, n: int) -> tuple[float, float] | None:
    """The 95 % interval of a rank correlation of n pairs (Bonett and Wright 2000); None below 4."""
    if n < 4:
        return None
    middle = math.atanh(max(-1 + 1e-12, min(1 - 1e-12, rho)))
    half = 1.959964 * math.sqrt((1 + rho * rho / 2) / (n - 3))
    return math.tanh(middle - half), math.tanh(middle + half)


def along(cells: Iterable[Cell], measure: str, other: str = "loss") -> tuple[float, ...]:
    """Per seed, the rank correlation over checkpoints of a kind of flatness with the test loss, or
    with another figure.
    """
    return tuple(
        spearman([getattr(c, measure) for c in each], [getattr(c, other) for c in each])
        for each in trajectories(cells).values()
    )


def across(cells: Sequence[Cell], measure: str) -> tuple[float, tuple[float, float] | None]:
    """The rank correlation over variants of their mean flatness with their mean test loss."""
    groups = [named(cells, name) for name in names(cells)]
    losses = [statistics.fmean(c.loss for c in group) for group in groups]
    flat = [statistics.fmean(getattr(c, measure) for c in group) for group in groups]
    rho = spearman(flat, losses)
    return rho, interval(rho, len(groups))


def changes(cells: Sequence[Cell], measure: str) -> tuple[float, ...]:
    """AWP's flatness relative to AT's, minus 1, seed by seed."""
    pairs = zip(named(cells, AT), named(cells, AWP), strict=True)
    return tuple(getattr(b, measure) / getattr(a, measure) - 1 for a, b in pairs)


def judge(cells: Sequence[Cell]) -> tuple[Verdict, str]:
    """Shown where all of these hold, contradicted where none of them does and each points the other
    way: over at least 8 checkpoints of the run that overfits the rank correlation of average-case
    flatness with the test robust loss is above 0.5 in the mean over seeds; over at least 8 variants
    it is positive, with its interval; AWP is flatter than AT in every seed.
    """
    rhos = along(cells, "average")
    rho, within = across(cells, "average")
    gains, worst = changes(cells, "average"), changes(cells, "worst")
    points = min(len(each) for each in trajectories(cells).values())
    held = (
        statistics.fmean(rhos) > ENOUGH and points >= LEAST,
        within is not None and within[0] > 0 and len(names(cells)) >= LEAST,
        max(gains) < 0,
    )
    against = (statistics.fmean(rhos) < 0, rho < 0, min(gains) > 0)
    text = "; ".join((
        f"over {points} checkpoints flatness and test robust loss correlate by "
        f"{statistics.fmean(rhos):+.2f} (per seed {', '.join(f'{r:+.2f}' for r in rhos)}; Spearman)"
        f"{_not(held[0])}",
        f"over {len(names(cells))} variants by {rho:+.2f}"
        + ("" if within is None else f" ({within[0]:+.2f} to {within[1]:+.2f})") + _not(held[1]),
        f"AWP's average-case flatness is {_percent(gains)} and its worst-case flatness "
        f"{_percent(worst)} against AT's (per seed){_not(held[2])}",
        _lower(gains, worst),
    ))  # fmt: skip
    if all(against):
        return "contradicts", text
    return ("shows" if all(held) else "does not show at this scale"), text


def _not(held: bool) -> str:
    return "" if held else " (not as claimed)"


def _percent(values: Sequence[float]) -> str:
    return ", ".join(f"{100 * v:+.0f} %" for v in values)


def _lower(gains: Sequence[float], worst: Sequence[float]) -> str:
    """What a small calibration of AWP asked for: both kinds at least 20 % lower."""
    both = statistics.fmean(gains) <= -0.2 and statistics.fmean(worst) <= -0.2
    means = f"{_percent([statistics.fmean(gains)])} and {_percent([statistics.fmean(worst)])}"
    said = "is met" if both else "is not met"
    return f"that AWP lowers both by 20 % or more in the mean {said} ({means})"


def rows(cells: Sequence[Cell], xi: tuple[float, float]) -> tuple[Row, ...]:
    """Correlations, AWP beside AT, the run that overfits, every variant; xi: of our balls, average
    and worst case.
    """
    n = cells[0].n
    made = [*_correlations(cells)]
    for kind, measure in (("average", "average"), ("worst", "worst")):
        what = f"AWP against AT: change of {kind}-case flatness"
        made.append(Row.per_seed(what, changes(cells, measure), n, least=-1.0))
    made += _overfitting(cells)
    for name in names(cells):
        made += _variant(name, named(cells, name), xi)
    return tuple(made)


def _correlations(cells: Sequence[Cell]) -> list[Row]:
    made, each = [], trajectories(cells)
    points = min(len(one) for one in each.values())
    for measure, words in (
        ("average", "average-case flatness"), ("worst", "worst-case flatness"),
    ):  # fmt: skip
        for other, said in (("loss", "test robust loss"), ("epoch", "epoch")):
            what = f"run that overfits: Spearman over {points} checkpoints, {words} with {said}"
            made.append(_signed(what, along(cells, measure, other), points))
        late = [c for one in each.values() for c in _since_lowest(one)]
        what = f"run that overfits, from its lowest test robust loss on: Spearman, {words} with it"
        few = min(len(one) for one in trajectories(late).values())
        made.append(_signed(what, along(late, measure), few))
    for measure, words, known in (
        ("average", "average-case flatness", 0.87), ("worst", "worst-case flatness", None),
        ("clean_average", "average-case flatness of the clean loss", None),
    ):  # fmt: skip
        rho, ci95 = across(cells, measure)
        count = len(names(cells))
        made.append(
            Row(what=f"{count} variants: Spearman of {words} with test robust loss", ours=(rho,),
                n=count, unit="", ci95=ci95, published=known,
                setting="over models, CIFAR-10" if known else "")
        )  # fmt: skip
    return made


def _since_lowest(points: Sequence[Cell]) -> Sequence[Cell]:
    """The checkpoints that overfit: from the lowest test loss on."""
    return points[min(range(len(points)), key=lambda i: points[i].loss) :]


def _signed(what: str, values: Sequence[float], n: int) -> Row:
    """Correlations per seed, with an interval that stays in [-1, 1]."""
    row = Row.per_seed(what, values, n, "")
    ci95 = row.ci95 and (max(-1.0, row.ci95[0]), min(1.0, row.ci95[1]))
    return row.model_copy(update={"ci95": ci95})


def _overfitting(cells: Sequence[Cell]) -> list[Row]:
    """The run that overfits where its test loss was lowest, and at its end."""
    each = list(trajectories(cells).values())
    made = []
    for words, picked in (
        ("at its lowest test robust loss", [min(one, key=lambda c: c.loss) for one in each]),
        ("at its end", [one[-1] for one in each]),
    ):
        for said, measure in (("test robust loss", "loss"), ("average-case flatness", "average")):
            n = picked[0].tests if measure == "loss" else picked[0].n
            what = f"run that overfits, {words}: {said}, nats"
            made.append(Row.per_seed(what, [getattr(c, measure) for c in picked], n, ""))
    return made


def _variant(name: str, group: Sequence[Cell], xi: tuple[float, float]) -> list[Row]:
    known = PUBLISHED.get(name)
    made = [
        Row.share(f"{name}: robust error, test", [c.wrong for c in group], [c.tests for c in group])
    ]
    for place, (words, measure) in enumerate((
        ("test robust loss", "loss"), ("robust-loss gap", ""),
        ("average-case flatness", "average"), ("worst-case flatness", "worst"),
    )):  # fmt: skip
        values = [getattr(c, measure) if measure else c.loss - c.train_loss for c in group]
        n = group[0].n if place > 1 else group[0].tests
        row = Row.per_seed(f"{name}: {words}, nats", values, n, "")
        if place > 1:
            said = f"ours at xi = {xi[place - 2]:g}"
            if known is not None:
                said = f"{SETTING}, xi = {XI[place - 2]:g}; {said}"
            published = known and known[place - 2]
            row = row.model_copy(update={"published": published, "setting": said})
        made.append(row)
    return made
