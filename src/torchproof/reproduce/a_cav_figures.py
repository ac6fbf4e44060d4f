"""Of `reproduce a-cav`: its figures, the table, the verdict, the picture."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence

from matplotlib.axes import Axes

from torchproof.core.errors import InputError
from torchproof.core.metrics import student
from torchproof.report.pictures import blank, content, plainly
from torchproof.reproduce.experiment import Row, Verdict
from torchproof.reproduce.figures import Figures

PLAIN, LOGISTIC = "CAV (SGD, hinge)", "CAV (logistic)"
ADVERSARIAL = "A-CAV, concept side, eps 0.05"
COMBINED = "A-CAV, with Gram-Schmidt noise too"
NOISE = "Gram-Schmidt noise alone"
BASES = (PLAIN, LOGISTIC)
MEASURES = ("recall", "false_positives", "auroc")
WORDS = {
    "recall": ("recall", "#1f6feb"),
    "false_positives": ("false-positive rate", "#d1690e"),
    "auroc": ("AUROC", "#2b8a3e"),
}
ENOUGH = 3  # concepts
READING = "VGG16; our reading"
PUBLISHED = {  # from the abstract
    (PLAIN, "recall"): (0.1835, f"concept fins, shark images, {READING}"),
    (ADVERSARIAL, "recall"): (0.7683, f"concept fins, shark images, {READING}"),
    (PLAIN, "std"): (0.2085, f"concept tail, cat images, {READING}"),
    (COMBINED, "std of averages"): (0.064, f"concept tail, cat images, {READING}"),
}


class Way(Figures):
    """One way to a vector: recall, false-positive rate and AUROC on held-out images of every draw,
    and of averages over draws; margin: least distance of a training image of the concept from the
    boundary, in root mean squares of the activations, mean over draws.
    """

    each: tuple[tuple[float, float, float], ...]
    averaged: tuple[tuple[float, float, float], ...]
    margin: float

    def mean(self, measure: str, averaged: bool = False) -> float:
        return statistics.fmean(self._column(measure, averaged))

    def variance(self, measure: str, averaged: bool = False) -> float:
        """Over draws; NaN for a single one."""
        values = self._column(measure, averaged)
        return statistics.variance(values) if len(values) > 1 else math.nan

    def _column(self, measure: str, averaged: bool) -> list[float]:
        place = MEASURES.index(measure)
        return [row[place] for row in (self.averaged if averaged else self.each)]


class Cell(Figures):
    """One concept in one layer, with the images of one seed; n: held-out concept images."""

    layer: str
    concept: str
    seed: int
    n: int
    n_random: int
    ways: dict[str, Way]


class Sensitive(Figures):
    """TCAV of a class for a concept, by draw: ours, captum's with its own vectors (none where it is
    not installed), ours along captum's vectors, cosines of both; random: of vectors without a
    concept; p: of ours against those.
    """

    layer: str
    concept: str
    target: str
    n: int
    ours: tuple[float, ...]
    random: tuple[float, ...]
    p: float
    captum: tuple[float, ...] = ()
    along: tuple[float, ...] = ()
    cosines: tuple[float, ...] = ()


def mean(cells: Sequence[Cell], way: str, measure: str, averaged: bool = False) -> float:
    return statistics.fmean(cell.ways[way].mean(measure, averaged) for cell in cells)


def std(cells: Sequence[Cell], way: str, measure: str = "recall", averaged: bool = False) -> float:
    """Root of the mean variance over draws, so of one concept and split."""
    each = [cell.ways[way].variance(measure, averaged) for cell in cells]
    return math.sqrt(statistics.fmean(each))


def layers_of(cells: Sequence[Cell]) -> list[str]:
    return list(dict.fromkeys(cell.layer for cell in cells))


def rows(cells: Sequence[Cell], tcav: Sequence[Sensitive] = ()) -> tuple[Row, ...]:
    """Per layer and way: recall, its standard deviation over draws, false-positive rate, AUROC, the
    same of averages over draws, the margin; then TCAV.
    """
    table: list[Row] = []
    for layer in layers_of(cells):
        mine = [cell for cell in cells if cell.layer == layer]
        seeds = [[c for c in mine if c.seed == s] for s in sorted({c.seed for c in mine})]
        for way in mine[0].ways:
            table += _of_way(layer, way, seeds)
    return (*table, *(row for one in tcav for row in _tcav(one)))


def _of_way(layer: str, way: str, seeds: Sequence[Sequence[Cell]]) -> list[Row]:
    head, n = f"{layer}, {way}", seeds[0][0].n

    def row(name: str, key: str, value: Callable[[Sequence[Cell]], float]) -> list[Row]:
        values = [value(cells) for cells in seeds]
        if any(math.isnan(v) for v in values):
            return []
        known, setting = PUBLISHED.get((way, key), (None, ""))
        made = Row.per_seed(f"{head}: {name}", values, n)
        return [made.model_copy(update={"published": known, "setting": setting})]

    found = row("recall", "recall", lambda cells: mean(cells, way, "recall"))
    found += row("standard deviation of the recall over draws", "std", lambda c: std(c, way))
    found += row("false-positive rate", "fpr", lambda cells: mean(cells, way, "false_positives"))
    areas = [mean(cells, way, "auroc") for cells in seeds]
    ci95 = student(areas, 0.0, 1.0)
    found.append(Row(what=f"{head}: AUROC", ours=tuple(areas), n=n, unit="", ci95=ci95))
    for name, measure in (("recall", "recall"), ("false-positive rate", "false_positives")):
        found += row(f"{name}, averages", "", lambda c, m=measure: mean(c, way, m, True))  # type: ignore[misc]
    words = "standard deviation of the recall over averages"
    found += row(words, "std of averages", lambda cells: std(cells, way, averaged=True))
    margins = [statistics.fmean(cell.ways[way].margin for cell in cells) for cells in seeds]
    return [*found, Row.per_seed(f"{head}: least margin of the concept", margins, n, "")]


def _tcav(one: Sensitive) -> list[Row]:
    head = f"{one.layer}, {one.concept}: TCAV of {one.target}"
    named = (
        (f"{head} (p = {one.p:.2g} against random vectors)", one.ours),
        (f"{head}, random vectors", one.random),
        (f"{head}, captum", one.captum),
        (f"{head}, ours along captum's vectors", one.along),
    )
    found = [Row(what=what, ours=values, n=one.n) for what, values in named if values]
    if one.cosines:
        what = f"{head}, cosine of our vectors and captum's"
        found.append(Row(what=what, ours=one.cosines, n=one.n, unit=""))
    return found


def judge(cells: Sequence[Cell], group: int) -> tuple[Verdict, str]:
    """Recall up and its standard deviation down in every layer, against the published classifier
    and against the same one without a margin, and so (or equal) on at least three concepts, shows
    the claim; recall down and deviation up in every layer against both contradicts it.
    """
    good, bad, told = [], [], []
    for layer in layers_of(cells):
        mine = [cell for cell in cells if cell.layer == layer]
        for base in BASES:
            more = mean(mine, ADVERSARIAL, "recall") - mean(mine, base, "recall")
            wider = std(mine, ADVERSARIAL) - std(mine, base)
            count = sum(_holds(mine, concept, base) for concept in {c.concept for c in mine})
            good.append(more > 0 and wider < 0 and count >= ENOUGH)
            bad.append(more < 0 and wider > 0)
        told.append(_told(mine, group))
    verdict: Verdict = "does not show at this scale"
    if all(good):
        verdict = "shows"
    elif all(bad):
        verdict = "contradicts"
    return verdict, "; ".join(told)


def _holds(cells: Sequence[Cell], concept: str, base: str) -> bool:
    mine = [cell for cell in cells if cell.concept == concept]
    up = mean(mine, ADVERSARIAL, "recall") >= mean(mine, base, "recall")
    return up and std(mine, ADVERSARIAL) <= std(mine, base)


def _told(cells: Sequence[Cell], group: int) -> str:
    names = {c.concept for c in cells}
    holds = [sum(_holds(cells, name, base) for name in names) for base in BASES]
    text = [f"in {cells[0].layer}"]
    for way in (*BASES, ADVERSARIAL, NOISE):
        text.append(
            f"{way}: recall {mean(cells, way, 'recall'):.1%} ± {std(cells, way):.1%}, "
            f"false positives {mean(cells, way, 'false_positives'):.1%}, "
            f"AUROC {mean(cells, way, 'auroc'):.3f}"
        )
    more = {m: mean(cells, ADVERSARIAL, m) - mean(cells, LOGISTIC, m) for m in MEASURES}
    text.append(f"what the margin alone does: recall {100 * more['recall']:+.1f} points, false "
                f"positives {100 * more['false_positives']:+.1f} points, "
                f"AUROC {more['auroc']:+.3f}")  # fmt: skip
    single, averaged = std(cells, COMBINED), std(cells, COMBINED, averaged=True)
    text.append(f"recall no lower and deviation no larger on {holds[0]} and {holds[1]} of "
                f"{len(names)} concepts (against hinge and logistic)")  # fmt: skip
    text.append(f"averages over {group} draws with Gram-Schmidt noise deviate by {averaged:.1%} "
                f"instead of {single:.1%}")  # fmt: skip
    return ", ".join(text)


@plainly
def picture(cells: Sequence[Cell]) -> bytes:
    """Per layer: means and deviations of all ways; recall of each concept by four of them (PNG)."""
    if not cells:
        raise InputError("no figures", "at least one cell", "measure first")
    layers = layers_of(cells)
    figure = blank(7.2 * len(layers), 9.4)
    panels = figure.subplots(2, len(layers), squeeze=False, height_ratios=(2.2, 1))
    for column, layer in enumerate(layers):
        mine = [cell for cell in cells if cell.layer == layer]
        _bars(panels[0][column], mine, column == 0)
        _by_concept(panels[1][column], mine, column == 0)
        panels[0][column].set_title(f"layer {layer}", fontsize=11, pad=24)
    return content(figure, dpi=130)


def _bars(axes: Axes, cells: Sequence[Cell], first: bool) -> None:
    lines = [(way, False) for way in cells[0].ways]
    lines += [(way, True) for way in (PLAIN, ADVERSARIAL, COMBINED)]
    places = list(range(len(lines)))[::-1]
    for shift, measure in zip((0.26, 0, -0.26), MEASURES, strict=True):
        words, colour = WORDS[measure]
        for place, (way, averaged) in zip(places, lines, strict=True):
            value, at = mean(cells, way, measure, averaged), place + shift
            wide = std(cells, way, measure, averaged)
            axes.barh(at, value, 0.24, color=colour, alpha=0.45)
            if not math.isnan(wide):
                axes.plot([value - wide, value + wide], [at, at], color="#30343b", linewidth=1.3)
        axes.barh([0], [0], color=colour, alpha=0.6, label=words)
    names = [f"averages: {way}" if averaged else way for way, averaged in lines]
    axes.set_yticks(places, names if first else [""] * len(names), fontsize=9)
    axes.set_ylim(-0.6, len(lines) - 0.4)
    axes.set_xlim(0, 1.05)
    axes.set_xlabel("on held-out images; lines: standard deviation over draws")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(frameon=False, ncols=3, fontsize=9, loc="lower center", bbox_to_anchor=(0.5, 1.0))


def _by_concept(axes: Axes, cells: Sequence[Cell], first: bool) -> None:
    names = list(dict.fromkeys(cell.concept for cell in cells))
    colours = ("#8a8f98", "#1f6feb", "#d1690e", "#2b8a3e")
    for number, (way, colour) in enumerate(zip((*BASES, ADVERSARIAL, COMBINED), colours,
                                               strict=True)):  # fmt: skip
        for place, name in enumerate(names):
            mine, at = [c for c in cells if c.concept == name], place + 0.17 * (number - 1.5)
            label = way if place == 0 else None
            value, wide = mean(mine, way, "recall"), std(mine, way)
            axes.errorbar([at], [value], [0 if math.isnan(wide) else wide], fmt="o", color=colour,
                          capsize=3, markersize=5, label=label)  # fmt: skip
            spent = mean(mine, way, "false_positives")
            axes.plot([at], [spent], "x", color=colour, markersize=5)
    axes.set_xticks(range(len(names)), names)
    axes.set_xlabel("● recall ± deviation over draws, × false-positive rate")
    axes.set_ylim(0, 1.05)
    axes.grid(axis="y", alpha=0.3)
    if first:
        axes.set_ylabel("share of images")
        axes.legend(frameon=False, fontsize=9, ncols=2, loc="upper center",
                    bbox_to_anchor=(0.5, -0.2))  # fmt: skip
