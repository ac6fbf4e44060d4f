"""Of `reproduce hgd`: the figures of a denoiser, the table, the verdict, the picture."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from matplotlib.figure import Figure
from pydantic import Field

from torchproof.nn import Purified
from torchproof.report.pictures import content
from torchproof.reproduce.experiment import Row, Verdict
from torchproof.reproduce.figures import Figures

PLAIN, PIXELS, LGD, HALF, TENTH = "undefended", "pixels", "LGD", "LGD, five classes", "LGD, a tenth"
ENSEMBLE = "ensemble AT"
KINDS = (PLAIN, "DAE, pixels", PIXELS, "FGD", LGD, "CGD", HALF, TENTH, ENSEMBLE)

CLEAN, SUITE = "clean", "fast"
SMALL, LARGE, BEYOND = 26 / 255, 51 / 255, 64 / 255
EPS = tuple(number / 255 for number in range(1, 52))  # of training, input units
ERROR_ON, HELD_OUT = "BIM on A, 0.2", "2-step BIM on C (held out), 0.2"
SETS = {
    "FGSM on A, 0.1": ("FGSM", "A", SMALL),
    "BIM on A, 0.1": ("I-FGSM-4", "A", SMALL),
    "FGSM on A, 0.2": ("FGSM", "A", LARGE),
    ERROR_ON: ("I-FGSM-4", "A", LARGE),
    "FGSM on C (held out), 0.2": ("FGSM", "C", LARGE),
    HELD_OUT: ("I-FGSM-2", "C", LARGE),
    "BIM on A, 0.25 (held out)": ("I-FGSM-4", "A", BEYOND),
}
"""Name -> attack, the network it is made on, eps. No denoiser has seen attacks on C, nor 0.25."""
JUDGED = ("FGSM on A, 0.2", "BIM on A, 0.2")
END_TO_END = LARGE
UNSEEN = 5  # classes from this one on are not shown to the denoiser of HALF
WHITE = ("PGD-40", f"{SUITE} suite")


class Cell(Figures):
    """One kind of defence. right, other: of n test images those still right before A and before B,
    by attack set; unseen: those of the unseen_n of later classes, before A; white: of the first
    `few`, those right when all is attacked as one; error: of the logits, relative; squared: of the
    pixels.
    """

    data: str
    kind: str
    seed: int
    n: int
    right: dict[str, int]
    unseen: dict[str, int]
    unseen_n: int
    few: int
    white: dict[str, int]
    other: dict[str, int] = Field(default_factory=dict)
    error: float | None = None
    squared: float | None = None

    @property
    def text(self) -> str:
        parts = [f"{name} {hits / self.n:.3f}" for name, hits in self.right.items()]
        parts += [f"end to end {name} {hits / self.few:.3f}" for name, hits in self.white.items()]
        return ", ".join(parts)


def rows(cells: Sequence[Cell]) -> tuple[Row, ...]:
    """Every kind under every attack set, and what the claims compare."""
    table: list[Row] = []
    for kind in KINDS:
        mine = [cell for cell in cells if cell.kind == kind]
        if mine:
            table += _of(kind, mine)
    for name in JUDGED:
        for kind in KINDS[1:]:
            gains = _gains(cells, kind, _share("right", name))
            table.append(_gain(f"{kind} minus {PLAIN}: {name}", gains, cells))
    for name in JUDGED:
        gains = _gains(cells, LGD, _share("other", name))
        table.append(_gain(f"{LGD} before B minus B alone: {name}", gains, cells))
        gains = _gains(cells, HALF, _share("unseen", name))
        table.append(_gain(f"{HALF} minus {PLAIN}, on the other five: {name}", gains, cells))
    hidden = [_over_reported(c) for c in cells if c.kind == LGD]
    what = f"{LGD}: {ERROR_ON} minus {SUITE} suite end to end (over-reporting)"
    return (*table, _gain(what, hidden, cells))


def _gain(what: str, gains: Sequence[float], cells: Sequence[Cell]) -> Row:
    return Row.per_seed(what, gains, sum(c.n for c in cells if c.kind == PLAIN), least=-1.0)


def _of(kind: str, mine: Sequence[Cell]) -> list[Row]:
    """The figures of one kind. Whatever is behind a denoiser is labelled as evaluations are."""
    n = [cell.n for cell in mine]
    table = [
        Row.share(f"{kind}: {name}", [cell.right[name] for cell in mine], n)
        for name in (CLEAN, *SETS)
    ]
    note = "" if kind in (PLAIN, ENSEMBLE) else f" [{Purified.caveat.partition(':')[0]}]"
    few = [cell.few for cell in mine]
    for name in WHITE:
        hits = [cell.white[name] for cell in mine]
        table.append(Row.share(f"{kind}: {name} end to end, 0.2{note}", hits, few))
    if all(cell.other for cell in mine):
        for name in (CLEAN, *JUDGED):
            hits = [cell.other[name] for cell in mine]
            table.append(Row.share(f"{kind}, before B: {name}", hits, n))
    for what, field in (("relative error of the logits", "error"), ("mean squared pixel error",
                        "squared")):  # fmt: skip
        values = [getattr(cell, field) for cell in mine]
        if None not in values:
            row = Row.per_seed(f"{kind}: {what}, {ERROR_ON}", values, sum(n), unit="")
            table.append(row)
    return table


def _gains(cells: Sequence[Cell], kind: str, value: Callable[[Cell], float]) -> list[float]:
    """By how much `value` of a kind exceeds that of the undefended network, per seed."""
    of = {(cell.kind, cell.seed): cell for cell in cells}
    seeds = sorted({seed for _, seed in of})
    return [value(of[kind, seed]) - value(of[PLAIN, seed]) for seed in seeds]


def _share(field: str, name: str) -> Callable[[Cell], float]:
    """Of a cell: the share of `right`, `other` or `unseen` images under an attack set."""

    def of(cell: Cell) -> float:
        hits: int = getattr(cell, field)[name]
        return hits / (cell.unseen_n if field == "unseen" else cell.n)

    return of


def _over_reported(cell: Cell) -> float:
    """What the grey-box figure says more than the attack on the whole."""
    return cell.right[ERROR_ON] / cell.n - cell.white[f"{SUITE} suite"] / cell.few


def judge(cells: Sequence[Cell]) -> tuple[Verdict, str]:
    """The acceptance of HGD, in means over seeds: at least 40 points against FGSM and BIM on A at
    0.2 for at most 1.5 clean ones, errors of logits 30 % below those of the pixel-guided denoiser
    whose pixels are nearer, 20 points for B, and at most 10 % end to end. No grey-box gain
    contradicts.
    """
    mean = statistics.fmean
    grey = [mean(_gains(cells, LGD, _share("right", name))) for name in JUDGED]
    to_b = [mean(_gains(cells, LGD, _share("other", name))) for name in JUDGED]
    clean = mean(_gains(cells, LGD, _share("right", CLEAN)))
    named = {kind: [c for c in cells if c.kind == kind] for kind in (LGD, PIXELS)}
    error = {kind: mean(c.error or 0.0 for c in mine) for kind, mine in named.items()}
    squared = {kind: mean(c.squared or 0.0 for c in mine) for kind, mine in named.items()}
    left = mean(c.white[f"{SUITE} suite"] / c.few for c in named[LGD])
    text = (
        f"LGD gains {_points(grey)} against {' and '.join(JUDGED)} (40 wanted), clean "
        f"{_points([clean])} (-1.5 allowed); relative logit error {error[LGD]:.3f} against "
        f"{error[PIXELS]:.3f} guided by pixels (30 % less wanted), squared pixel error "
        f"{squared[LGD]:.4f} against {squared[PIXELS]:.4f}; before B, which guided nothing, "
        f"{_points(to_b)} (20 wanted); attacked end to end {100 * left:.1f} % stay right (at most "
        f"10 expected): {Purified.caveat}"
    )
    if min(grey) <= 0:
        return "contradicts", text
    held = [
        min(grey) >= 0.4, clean >= -0.015, error[LGD] <= 0.7 * error[PIXELS],
        squared[PIXELS] <= squared[LGD], min(to_b) >= 0.2, left <= 0.1,
    ]  # fmt: skip
    return ("shows" if all(held) else "does not show at this scale"), text


def _points(gains: Sequence[float]) -> str:
    return " and ".join(f"{100 * gain:+.1f}" for gain in gains) + " points"


def picture(cells: Sequence[Cell]) -> bytes:
    """Accuracy by kind: clean, under BIM on A, under BIM on C, end to end; a dot per seed (PNG)."""
    shown: dict[str, Callable[[Cell], float]] = {
        name: _share("right", name) for name in (CLEAN, ERROR_ON, HELD_OUT)
    }
    shown[f"{SUITE} suite end to end, 0.2"] = lambda c: c.white[f"{SUITE} suite"] / c.few
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    colours = ("#8a8f98", "#1f6feb", "#2da44e", "#cf222e")
    for (name, value), colour in zip(shown.items(), colours, strict=True):
        for at, kind in enumerate(KINDS):
            dots = [100 * value(cell) for cell in cells if cell.kind == kind]
            label = None if at else name
            axes.scatter([at] * len(dots), dots, s=18, color=colour, label=label, alpha=0.8)
    axes.set_xticks(range(len(KINDS)), KINDS, rotation=25, ha="right", fontsize=8)
    axes.set_ylim(-2, 102)
    axes.set_ylabel("accuracy, %")
    axes.grid(axis="y", alpha=0.3)
    axes.legend(frameon=False, fontsize=8, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return content(figure)
