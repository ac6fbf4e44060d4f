"""Of `reproduce regional`: its cases, the table made of them, the verdict, the picture."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from torchproof.core.metrics import student
from torchproof.report.pictures import content
from torchproof.reproduce.experiment import Row, Verdict

GLOBAL = "global"
KEPT = 0.76  # the abstract's figure


@dataclass(frozen=True)
class Case:
    """One image, attacked through `source` until `target` is fooled, inside a region.

    gradients: steps of the search asked for a gradient; share: of the region in the image; l0 (a
    share of the image's pixels), l2, linf of the perturbation; l0_inside: l0 within the region;
    outside: the largest change outside the region.
    """

    source: str
    target: str
    region: str
    seed: int
    image: int
    won: bool
    gradients: int
    share: float
    l0: float
    l2: float
    linf: float
    l0_inside: float
    outside: float

    @property
    def white(self) -> bool:
        return self.source == self.target

    @property
    def key(self) -> tuple[str, str, int, int]:
        """What two regions are compared at."""
        return self.source, self.target, self.seed, self.image


Value = Callable[[Case], float]
LENGTHS: dict[str, Value] = {
    "L0": lambda c: c.l0,
    "L2": lambda c: c.l2,
    "Linf": lambda c: c.linf,
}


def regions(cases: Sequence[Case]) -> list[str]:
    """The regions in order of appearance."""
    return list(dict.fromkeys(case.region for case in cases))


def paired(cases: Sequence[Case], region: str) -> list[tuple[Case, Case]]:
    """(global, regional) cases of the same pair, seed and image, where both fooled the target."""
    whole = {c.key: c for c in cases if c.region == GLOBAL and c.won}
    return [(whole[c.key], c) for c in cases if c.region == region and c.won and c.key in whole]


def rows(cases: Sequence[Case]) -> tuple[Row, ...]:
    """The table: within one network, from one to another, per pair, and what changed outside."""
    white, moved = ([c for c in cases if c.white == kind] for kind in (True, False))
    table = [*_block("white-box", white), *_block("transfer", moved)]
    for region in regions(moved):
        if region != GLOBAL:
            table += _kept(moved, region)
    pairs = dict.fromkeys((c.source, c.target) for c in moved)
    for source, target in pairs:
        mine = [c for c in moved if (c.source, c.target) == (source, target)]
        table += [_success(f"{source} to {target}", mine, region) for region in regions(mine)]
    seeds = sorted({c.seed for c in cases})
    outside = tuple(max(c.outside for c in cases if c.seed == seed) for seed in seeds)
    what = "largest change of a pixel outside its region"
    return (*table, Row(what=what, ours=outside, n=len(cases), unit=""))


def _block(kind: str, cases: Sequence[Case]) -> list[Row]:
    """Success and lengths per region, and the lengths in ratio to the global attack's."""
    table = []
    for region in regions(cases):
        mine = [c for c in cases if c.region == region and c.won]
        table.append(_success(kind, cases, region))
        for name, value in LENGTHS.items():
            unit = "%" if name == "L0" else ""
            got = [(c.seed, c.image, value(c)) for c in mine]
            table += _mean(f"{kind}, {region}: {name}", got, unit)
        both = [] if region == GLOBAL else paired(cases, region)
        for name, value in LENGTHS.items():
            got = [(c.seed, c.image, value(c) / value(g)) for g, c in both]
            table += _mean(f"{kind}, {region}: {name} over global's, same cases", got, "")
    return table


def _success(kind: str, cases: Sequence[Case], region: str) -> Row:
    mine = [c for c in cases if c.region == region]
    seeds = sorted({c.seed for c in mine})
    hits = [sum(c.won for c in mine if c.seed == seed) for seed in seeds]
    of = [sum(c.seed == seed for c in mine) for seed in seeds]
    share = statistics.fmean(c.share for c in mine)
    return Row.share(f"{kind}, {region} ({100 * share:.1f} % of the pixels): fooled", hits, of)


def _kept(moved: Sequence[Case], region: str) -> list[Row]:
    """Of the cases that the global attack transfers, those that the regional one does too."""
    whole = {c.key for c in moved if c.region == GLOBAL and c.won}
    mine = [c for c in moved if c.region == region and c.key in whole]
    if not mine:
        return []
    seeds = sorted({c.seed for c in mine})
    hits = [sum(c.won for c in mine if c.seed == seed) for seed in seeds]
    of = [sum(c.seed == seed for c in mine) for seed in seeds]
    what, setting = f"transfer kept in {region}", "on average over regions and models, ImageNet"
    return [Row.share(what, hits, of, published=KEPT, setting=setting)]


def _mean(what: str, values: Sequence[tuple[int, int, float]], unit: str) -> list[Row]:
    """The mean over images of (seed, image, value), an image's values averaged first, with
    Student's interval; n counts images.
    """
    if not values:
        return []
    means = _by_image(values)
    seeds = sorted({seed for seed, _ in means})
    ours = tuple(statistics.fmean(v for (s, _), v in means.items() if s == seed) for seed in seeds)
    interval = student(list(means.values()))
    return [Row(what=what, ours=ours, n=len(means), unit=unit, ci95=interval)]


def _by_image(values: Sequence[tuple[int, int, float]]) -> dict[tuple[int, int], float]:
    """(seed, image) -> the mean of its values."""
    of: dict[tuple[int, int], list[float]] = defaultdict(list)
    for seed, image, value in values:
        of[seed, image].append(value)
    return {at: statistics.fmean(mine) for at, mine in of.items()}


def judge(cases: Sequence[Case]) -> tuple[Verdict, str]:
    """Does the claim show? Nothing changed outside; within and between networks L0 falls in every
    centre region; the largest centre region keeps at least 76 % of the transfer, at a smaller L2.
    """
    centres = [r for r in regions(cases) if r.startswith("centre")]
    white, moved = ([c for c in cases if c.white == kind] for kind in (True, False))
    ratios = {
        (kind, region, name): _ratio(of, region, LENGTHS[name])
        for kind, of in (("white-box", white), ("transfer", moved))
        for region in centres
        for name in LENGTHS
    }
    confined = max(c.outside for c in cases) == 0
    falls = all(v < 1 for (_, _, name), v in ratios.items() if name == "L0" and v is not None)
    largest = centres[0]
    whole = {c.key for c in moved if c.region == GLOBAL and c.won}
    held = [c.won for c in moved if c.region == largest and c.key in whole]
    kept = statistics.fmean(held) if held else 0.0
    l2 = ratios["transfer", largest, "L2"]
    text = (
        f"{'nothing' if confined else 'something'} changed outside a region; {largest} keeps "
        f"{100 * kept:.0f} % of {len(held)} transfers; in ratio to the global attack, "
    )
    text += "; ".join(
        f"{kind} {region}: "
        + ", ".join(f"{name} {_text(ratios[kind, region, name])}" for name in LENGTHS)
        for kind in ("white-box", "transfer")
        for region in centres
        if ratios[kind, region, "L0"] is not None
    )
    if not (confined and falls):
        return "contradicts", text
    if kept >= KEPT and l2 is not None and l2 < 1:
        return "shows", text
    return "does not show at this scale", text


def _ratio(cases: Sequence[Case], region: str, value: Value) -> float | None:
    got = [(c.seed, c.image, value(c) / value(g)) for g, c in paired(cases, region)]
    return _mean("", got, "")[0].mean if got else None


def _text(ratio: float | None) -> str:
    return "–" if ratio is None else f"{ratio:.2f}"


def picture(cases: Sequence[Case]) -> bytes:
    """L0, L2 and Linf by region, a dot per fooled case: white-box above, transfer below (PNG)."""
    figure = Figure(figsize=(9, 5.2), layout="constrained")
    grid = figure.subplots(2, 3, sharey="col")
    for line, kind in zip(grid, (True, False), strict=True):
        mine = [c for c in cases if c.white == kind]
        names = regions(mine)
        for axes, (name, value) in zip(line, LENGTHS.items(), strict=True):
            for at, region in enumerate(names):
                got = [value(c) for c in mine if c.region == region and c.won]
                axes.scatter([at] * len(got), got, s=8, alpha=0.5, color="#8a8f98")
                if got:
                    axes.scatter([at], [statistics.fmean(got)], s=60, marker="_", color="#1f6feb")
            axes.set_xticks(range(len(names)), names, rotation=25, ha="right", fontsize=7)
            axes.set_title(f"{'white-box' if kind else 'transfer'}: {name}", fontsize=9)
            axes.grid(axis="y", alpha=0.3)
    return content(figure)
