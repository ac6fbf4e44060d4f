"""Of `reproduce prunability`: its figures, the table of correlations, the verdict, the picture."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from matplotlib.axes import Axes

from torchproof.diagnose.rank import granulated, interval, kendall, mutual_information
from torchproof.report.pictures import blank, content, plainly
from torchproof.reproduce.experiment import Row, Verdict
from torchproof.reproduce.figures import Figures

MAGNITUDE = "magnitude pruning"
ENOUGH, FEWEST = 0.5, 8  # tau, and networks that it takes
AXES = ("noise", "width")
COLOURS = ("#1f6feb", "#d1690e", "#2b8a3e", "#8a3ffc", "#c2255c")


class Cell(Figures):
    """One network of the ladder. noise: share of random labels; loss, train: on the training rows;
    test: accuracy on n test images; reached: did it come to the target loss? measures: name ->
    value, more being taken to generalise worse.
    """

    seed: int
    width: str
    noise: float
    n: int
    loss: float
    reached: bool
    train: float
    test: float
    measures: dict[str, float]

    @property
    def gap(self) -> float:
        return self.train - self.test

    @property
    def text(self) -> str:
        return (
            f"loss {self.loss:.4f}, gap {self.gap:.3f}, keeps {self.measures[MAGNITUDE]:.2f} of "
            f"its weights"
        )


class Wide(Figures):
    """One network of the sweep; loss, train: on the training rows with their labels; test_loss,
    test: on n test images; fraction: prunability; norm: sum of squared weights.
    """

    seed: int
    units: int
    n: int
    loss: float
    train: float
    test: float
    test_loss: float
    parameters: int
    fraction: float
    norm: float

    @property
    def text(self) -> str:
        return (
            f"train {self.train:.3f}, test {self.test:.3f}, test loss {self.test_loss:.2f}, keeps "
            f"{self.fraction:.2f} of its weights"
        )


def rows(
    cells: Sequence[Cell], first: Sequence[Cell], sweep: Sequence[Wide], trained: int
) -> tuple[Row, ...]:
    """Correlations over all networks of the ladder and over those judged, then the sweep; trained:
    training images.
    """
    n = len(cells)
    table: list[Row] = []
    for share in sorted({cell.noise for cell in first}):
        mine = [cell for cell in first if cell.noise == share]
        head = f"{share:.0%} random labels, width {mine[0].width}"
        table.append(Row.per_seed(f"{head}: generalisation gap", [c.gap for c in mine], mine[0].n))
        kept = [c.measures[MAGNITUDE] for c in mine]
        table.append(Row.per_seed(f"{head}: {MAGNITUDE} keeps", kept, len(kept)))
    for name in cells[0].measures:
        table += _tau(f"Kendall tau with the gap, {len(first)} networks: {name}", first, name)
        table += _tau(f"Kendall tau with the gap, all {n}: {name}", cells, name)
    for name in cells[0].measures:
        table += _told(cells, name)
    return (*table, *_swept(sweep, trained))


def _pair(cells: Sequence[Cell], name: str) -> tuple[list[float], list[float]]:
    return [cell.measures[name] for cell in cells], [cell.gap for cell in cells]


def _tau(what: str, cells: Sequence[Cell], name: str) -> list[Row]:
    found = kendall(*_pair(cells, name))
    if found is None:  # as of the number of parameters in one width
        return [Row(what=f"{what} (does not vary)", ours=(0.0,), n=len(cells), unit="")]
    within = interval(*_pair(cells, name))
    return [Row(what=what, ours=(found,), n=len(cells), unit="", ci95=within)]


def _told(cells: Sequence[Cell], name: str) -> list[Row]:
    """Granulated tau, and mutual information with the gap and with magnitude pruning."""
    measure, gap = _pair(cells, name)
    settings = [{"noise": c.noise, "width": c.width, "seed": c.seed} for c in cells]
    axes = [axis for axis in AXES if len({s[axis] for s in settings}) > 1]
    psi = granulated(measure, gap, settings, axes)
    along = ", ".join(f"{axis} {value:.2f}" for axis, value in psi.axes)
    found = [Row(what=f"granulated tau ({along}): {name}", ours=(psi.mean,), n=len(cells), unit="")]
    told = mutual_information(measure, gap, settings, axes, most=1)
    if told.least is not None:
        what = f"mutual information with the gap, least over axes given: {name}"
        found.append(Row(what=what, ours=(told.least,), n=len(cells), unit=""))
    if name != MAGNITUDE:
        other = [cell.measures[MAGNITUDE] for cell in cells]
        shared = mutual_information(measure, other, settings, ()).least
        if shared is not None:
            what = f"mutual information with {MAGNITUDE}: {name}"
            found.append(Row(what=what, ours=(shared,), n=len(cells), unit=""))
    return found


def _swept(sweep: Sequence[Wide], trained: int) -> list[Row]:
    table = []
    for units in sorted({cell.units for cell in sweep}):
        mine = [cell for cell in sweep if cell.units == units]
        for what, values, n in (
            ("training accuracy", [c.train for c in mine], trained),
            ("test accuracy", [c.test for c in mine], mine[0].n),
            (f"{MAGNITUDE} keeps", [c.fraction for c in mine], len(mine)),
        ):
            table.append(Row.per_seed(f"sweep, {units} units: {what}", values, n))
        losses = [c.test_loss for c in mine]
        table.append(Row.per_seed(f"sweep, {units} units: test loss", losses, mine[0].n, ""))
    for name in ("test error", "test loss"):
        goal = [1 - c.test if name == "test error" else c.test_loss for c in sweep]
        for what, values in _sweep_measures(sweep).items():
            found = kendall(values, goal)
            if found is not None:
                row = f"sweep, Kendall tau with the {name}: {what}"
                within = interval(values, goal)
                table.append(Row(what=row, ours=(found,), n=len(goal), unit="", ci95=within))
    return table


def _sweep_measures(sweep: Sequence[Wide]) -> dict[str, list[float]]:
    return {
        MAGNITUDE: [c.fraction for c in sweep],
        "weights kept": [c.fraction * c.parameters for c in sweep],
        "parameters": [float(c.parameters) for c in sweep],
        "norm": [c.norm for c in sweep],
    }


def judge(first: Sequence[Cell], sweep: Sequence[Wide]) -> tuple[Verdict, str]:
    """A tau of at least 0.5 of magnitude pruning with the absolute slack, on at least 8 networks of
    one width that all came to the target loss, shows the claim; none above 0 contradicts it.
    """
    found = kendall(*_pair(first, MAGNITUDE)) or 0.0
    others = {
        name: kendall(*_pair(first, name)) or 0.0 for name in first[0].measures if name != MAGNITUDE
    }
    best = sorted(others, key=lambda name: -others[name])[:3]
    late = sum(not cell.reached for cell in first)
    text = (
        f"over {len(first)} networks of one width, tau with the generalisation gap is {found:.2f} "
        f"for {MAGNITUDE} with the absolute slack; the best others: "
        f"{', '.join(f'{name} {others[name]:.2f}' for name in best)}"
        + (f"; {late} networks did not come to the target loss" if late else "")
        + f"; {described(sweep)}"
    )
    if found <= 0:
        return "contradicts", text
    shows = found >= ENOUGH and len(first) >= FEWEST and not late
    return ("shows" if shows else "does not show at this scale"), text


GOALS: tuple[tuple[str, Callable[[Wide], float], float, Callable[[float], str]], ...] = (
    ("test error", lambda c: 1 - c.test, 0.01, lambda v: f"{100 * v:.1f} points"),
    ("test loss", lambda c: c.test_loss, 0.05, lambda v: f"{v:.2f} nats"),
)
"""What the sweep is looked at for: its name and value, the least rise and fall that count, and how
these are told.
"""


def described(sweep: Sequence[Wide]) -> str:
    """Where the test error and the test loss of the sweep have a maximum between two lower values,
    if they do, and how prunability follows them.
    """
    units = sorted({cell.units for cell in sweep})
    fraction, taus, peaks = [c.fraction for c in sweep], [], []
    for name, goal, least, text in GOALS:
        mean = [statistics.fmean(goal(c) for c in sweep if c.units == u) for u in units]
        rise, top, fall = _peak(mean)
        if min(rise, fall) < least:
            peaks.append(f"no second descent in the {name} of the sweep")
        else:
            peaks.append(
                f"double descent in the {name} of the sweep: it rises by {text(rise)} up to "
                f"{units[top]} units and falls by {text(fall)} beyond"
            )
        tau = kendall(fraction, [goal(c) for c in sweep]) if len(sweep) > 1 else None
        taus.append(f"{tau or 0.0:.2f} with the {name}")
    return f"{'; '.join(peaks)}; along the sweep, tau of {MAGNITUDE} is {' and '.join(taus)}"


def _peak(values: Sequence[float]) -> tuple[float, int, float]:
    """How far a curve rises from its least so far, where that is most, and how far it then
    falls.
    """
    rise, top = max((value - min(values[: i + 1]), i) for i, value in enumerate(values))
    return rise, top, values[top] - min(values[top:])


@plainly
def picture(cells: Sequence[Cell], sweep: Sequence[Wide]) -> bytes:
    """Prunability against the gap; the taus of all measures; the sweep (PNG)."""
    figure = blank(15, 5)
    one, two, three = figure.subplots(1, 3, width_ratios=(1, 1.1, 1.1))
    _scatter(one, cells)
    _bars(two, cells)
    _widths(three, sweep)
    return content(figure, dpi=130)


def _scatter(axes: Axes, cells: Sequence[Cell]) -> None:
    shares, widths = sorted({c.noise for c in cells}), list(dict.fromkeys(c.width for c in cells))
    for colour, share in zip(COLOURS, shares, strict=False):
        for marker, width in zip("os^D", widths, strict=False):
            mine = [c for c in cells if (c.noise, c.width) == (share, width)]
            label = f"{share:.0%} random labels" if width == widths[0] else None
            values = [c.measures[MAGNITUDE] for c in mine]
            axes.scatter(values, [c.gap for c in mine], color=colour, marker=marker, label=label)
    axes.set_xlabel(f"fraction that {MAGNITUDE} keeps (○ {widths[0]}, □ {widths[-1]})")
    axes.set_ylabel(f"generalisation gap, {cells[0].n} test images")
    axes.set_title(f"{len(cells)} networks of the ladder", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=9)


def _bars(axes: Axes, cells: Sequence[Cell]) -> None:
    taus = {name: kendall(*_pair(cells, name)) for name in cells[0].measures}
    known = sorted((value, name) for name, value in taus.items() if value is not None)
    for place, (value, name) in enumerate(known):
        low, high = interval(*_pair(cells, name)) or (value, value)
        colour = COLOURS[0] if name == MAGNITUDE else "#8a8f98"
        axes.barh(place, value, 0.6, color=colour, alpha=0.6)
        axes.plot([low, high], [place, place], color="#30343b", linewidth=1.2)
    axes.set_yticks(range(len(known)), [name for _, name in known], fontsize=9)
    axes.axvline(0, color="#30343b", linewidth=0.8)
    axes.set_xlim(-1, 1)
    axes.set_xlabel(f"Kendall tau with the gap, {len(cells)} networks, 95 % interval")
    axes.grid(axis="x", alpha=0.3)


def _widths(axes: Axes, sweep: Sequence[Wide]) -> None:
    units = sorted({cell.units for cell in sweep})
    lines: tuple[tuple[str, str, Callable[[Wide], float]], ...] = (
        (COLOURS[0], "test error", lambda c: 1 - c.test),
        ("#8a8f98", "training error", lambda c: 1 - c.train),
        (COLOURS[1], f"fraction that {MAGNITUDE} keeps", lambda c: c.fraction),
    )
    for colour, label, value in lines:
        each = [[value(c) for c in sweep if c.units == u] for u in units]
        mean = [statistics.fmean(values) for values in each]
        axes.plot(units, mean, "-o", color=colour, markersize=4, label=label)
        low, high = [min(values) for values in each], [max(values) for values in each]
        axes.fill_between(units, low, high, color=colour, alpha=0.15, linewidth=0)
    loss = [statistics.fmean(c.test_loss for c in sweep if c.units == u) for u in units]
    right = axes.twinx()
    right.plot(units, loss, "--^", color=COLOURS[3], markersize=4)
    axes.plot([], [], "--^", color=COLOURS[3], markersize=4, label="test loss (axis at the right)")
    right.set_ylim(0, 1.05 * max(loss))
    right.set_ylabel("test loss, nats")
    axes.set_xscale("log", base=2)
    axes.set_ylim(0, 1)
    axes.set_xlabel("hidden units (band: smallest to largest over seeds)")
    axes.set_ylabel(f"shares; test error on {sweep[0].n} images")
    axes.set_title(f"{len(sweep)} networks of the sweep", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=9)
