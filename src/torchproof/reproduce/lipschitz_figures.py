"""Of `reproduce lipschitz`: its figures, the table, the verdict, the picture."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence

from matplotlib.axes import Axes

from torchproof.report.pictures import blank, content, plainly
from torchproof.reproduce.experiment import Row, Verdict
from torchproof.reproduce.figures import Figures

PLAIN, NOISY = "vanilla", "Gaussian noise"
KINDS = (PLAIN, NOISY)
COLOURS = {PLAIN: "#1f6feb", NOISY: "#d1690e"}
CLOSE, TIMES = 0.02, 4.0  # of the exact value, and how much more than noise the search finds
FROM = 1.0  # radius from which the networks are compared
WITHIN = 1 + 1e-9  # rounding of float64


class Curve(Figures):
    """The largest ratios found at each radius, and certified bounds."""

    radii: tuple[float, ...]
    sampled: tuple[float, ...]
    attacked: tuple[float, ...]
    bound: tuple[float, ...]


class Line(Figures):
    """Of a linear map, whose constant is exact."""

    seed: int
    exact: float
    sampled: float
    attacked: float
    bound: float


class Cell(Figures):
    """One network: of n test images, right without noise and under it; alpha at the points, of
    probabilities and logits; near: at few points, with local bounds of the logits.
    """

    kind: str
    seed: int
    n: int
    points: int
    clean: int
    noisy: tuple[int, ...]
    softmax: Curve
    logits: Curve
    near: Curve | None

    @property
    def text(self) -> str:
        noisy = " ".join(f"{hits / self.n:.3f}" for hits in self.noisy)
        alphas = " ".join(f"{value:.3f}" for value in self.softmax.attacked)
        return f"clean {self.clean / self.n:.3f}, under noise {noisy}, alpha {alphas}"


def rows(lines: Sequence[Line], cells: Sequence[Cell]) -> tuple[Row, ...]:
    """The linear map, both kinds of networks, and their differences at each radius."""
    table = [
        Row.per_seed(f"linear map: {what}", [get(line) for line in lines], len(lines), "")
        for what, get in _LINE.items()
    ]
    for kind in KINDS:
        mine = [cell for cell in cells if cell.kind == kind]
        of = [cell.n for cell in mine]
        table.append(Row.share(f"{kind}: accuracy", [c.clean for c in mine], of))
        for number, sigma in enumerate((0.5, 0.8)):
            hits = [c.noisy[number] for c in mine]
            table.append(Row.share(f"{kind}: accuracy under noise of {sigma}", hits, of))
        table += _alphas(kind, mine)
    for at, r in enumerate(cells[0].softmax.radii):
        for way in ("attacked", "sampled"):
            what = f"{NOISY} over {PLAIN}, {way} alpha, r = {r:g}"
            table.append(Row.per_seed(what, ratios(cells, way, at), len(lines), ""))
    return tuple(table)


_LINE: dict[str, Callable[[Line], float]] = {
    "exact": lambda line: line.exact,
    "gradient ascent": lambda line: line.attacked,
    "random noise": lambda line: line.sampled,
    "certified bound": lambda line: line.bound,
    "gradient ascent / exact": lambda line: line.attacked / line.exact,
    "exact / random noise": lambda line: line.exact / line.sampled,
}


def _alphas(kind: str, mine: Sequence[Cell]) -> list[Row]:
    found = []
    for output in ("softmax", "logits"):
        curves: list[Curve] = [getattr(cell, output) for cell in mine]
        for at, r in enumerate(curves[0].radii):
            for way, words in (("attacked", "gradient ascent"), ("sampled", "random noise")):
                what = f"{kind}: alpha of {output}, r = {r:g}, {words}"
                values = [getattr(curve, way)[at] for curve in curves]
                found.append(Row.per_seed(what, values, mine[0].points, ""))
        what = f"{kind}: alpha of {output}, certified by spectral norms"
        found.append(Row.per_seed(what, [c.bound[-1] for c in curves], mine[0].points, ""))
    near = [cell.near for cell in mine if cell.near is not None]
    for at, r in enumerate(near[0].radii if near else ()):
        for words, values in (
            ("gradient ascent", [max(curve.attacked[: at + 1]) for curve in near]),
            ("certified in the ball", [curve.bound[at] for curve in near]),
        ):
            what = f"{kind}: alpha of logits at few points, r = {r:g}, {words}"
            found.append(Row.per_seed(what, values, len(near), ""))
    return found


def ratios(cells: Sequence[Cell], way: str, at: int) -> list[float]:
    """Per seed, alpha of the network trained with noise over that of the other."""
    of = {(c.kind, c.seed): getattr(c.softmax, way)[at] for c in cells}
    return [of[NOISY, seed] / of[PLAIN, seed] for seed in sorted({c.seed for c in cells})]


def judge(lines: Sequence[Line], cells: Sequence[Cell]) -> tuple[Verdict, str]:
    """Does the search reach linear maps within 2 %, never above, and 4 times what noise finds on
    the networks; is the network trained with noise lower from r = 1 on, in both estimates and in
    the mean over seeds? Higher in both at all these radii contradicts the claim.
    """
    line = min(v.attacked / v.exact for v in lines)
    sound = _sound(lines, cells)
    times = min(min(_times(cell.softmax)) for cell in cells)
    later = [at for at, r in enumerate(cells[0].softmax.radii) if r >= FROM]
    means = {way: [statistics.fmean(ratios(cells, way, at)) for at in later]
             for way in ("attacked", "sampled")}  # fmt: skip
    every = [value for values in means.values() for value in values]
    text = (
        f"on linear maps the search finds at least {line:.4f} of the exact value and noise at most "
        f"{max(v.sampled / v.exact for v in lines):.2f}; on the networks the search finds "
        f"{times:.1f} times what noise finds, or more; over the vanilla one, the network trained "
        f"with noise has {_listed(means['attacked'])} of its attacked and "
        f"{_listed(means['sampled'])} of its sampled alpha from r = {FROM:g} on; "
        + ("no value above a bound" if sound else "a value above a bound, which must not be")
    )
    if min(every) > 1:
        return "contradicts", text
    shows = line >= 1 - CLOSE and sound and times >= TIMES and max(every) < 1
    return ("shows" if shows else "does not show at this scale"), text


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.3f}" for value in values)


def _times(curve: Curve) -> list[float]:
    return [a / max(s, 1e-12) for a, s in zip(curve.attacked, curve.sampled, strict=True)]


def _sound(lines: Sequence[Line], cells: Sequence[Cell]) -> bool:
    """Is nothing found above what is exact or certified?"""
    curves = [c for cell in cells for c in (cell.softmax, cell.logits, cell.near) if c is not None]
    below = all(
        max(c.attacked[: i + 1]) <= bound * WITHIN for c in curves for i, bound in
        enumerate(c.bound)
    )  # fmt: skip
    return below and all(line.attacked <= line.exact * WITHIN for line in lines)


@plainly
def picture(cells: Sequence[Cell]) -> bytes:
    """alpha against the radius, of probabilities and of logits; bands over seeds (PNG)."""
    figure = blank(11, 5.0)
    both = figure.subplots(1, 2)
    for axes, output in zip(both, ("softmax", "logits"), strict=True):
        _panel(axes, cells, output)
    lines, words = both[0].get_legend_handles_labels()
    figure.legend(lines, words, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return content(figure)


def _panel(axes: Axes, cells: Sequence[Cell], output: str) -> None:
    for kind in KINDS:
        curves: list[Curve] = [getattr(cell, output) for cell in cells if cell.kind == kind]
        radii, colour = curves[0].radii, COLOURS[kind]
        for way, style, words in (
            ("attacked", "-o", "gradient ascent"), ("sampled", "--o", "random noise"),
            ("bound", ":", "spectral norms"),
        ):  # fmt: skip
            columns = list(zip(*(getattr(curve, way) for curve in curves), strict=True))
            mean = [statistics.fmean(column) for column in columns]
            axes.plot(radii, mean, style, color=colour, markersize=4, label=f"{kind}: {words}")
            low, high = [min(column) for column in columns], [max(column) for column in columns]
            axes.fill_between(radii, low, high, color=colour, alpha=0.15, linewidth=0)
    radii = getattr(cells[0], output).radii
    if output == "softmax":
        lengths = [radii[0] + (radii[-1] - radii[0]) * i / 50 for i in range(51)]
        most = [math.sqrt(2) / r for r in lengths]
        axes.plot(lengths, most, "-.", color="#8a8f98", linewidth=1, label="√2 / r: saturation")
    axes.set_yscale("log")
    axes.set_xlabel("r, Euclidean, input units")
    axes.set_ylabel(f"|f(x+e) − f(x)| / |e| at |e| = r, f = {output}")
    axes.set_title(f"{output}, {cells[0].points} training images", fontsize=10)
    axes.grid(alpha=0.3)
