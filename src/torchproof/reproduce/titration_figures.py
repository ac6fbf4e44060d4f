"""Of `reproduce titration`: what is stored, how banks judge each other, the table, the verdict."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torchproof.backdoor.bank import Entry
from torchproof.backdoor.neural_cleanse import Cleansed
from torchproof.backdoor.rule import Origin, Rule, calibrate, class_shares
from torchproof.backdoor.titrate import Titration
from torchproof.core.ranking import auroc, auroc_interval
from torchproof.reproduce.experiment import Row
from torchproof.reproduce.experiment import Verdict as Said
from torchproof.reproduce.figures import Figures

AREA, NAMED, FASTER = 0.9, 0.75, 100.0
ALL = "all kinds"
SEPARATES = f"AUROC of the scan, {ALL}"
NAMES = f"target named by the scan, {ALL}"
RATIO = "Neural Cleanse / scan, processor seconds"
Base = Literal["images", "noise"]


class Reading(Figures):
    """One network of a bank: its curves from test images and from noise images, and the processor
    seconds of the first.
    """

    entry: Entry
    images: Titration
    noise: Titration
    seconds: float

    def curve(self, base: Base) -> Titration:
        return self.images if base == "images" else self.noise

    @property
    def passes(self) -> int:
        """Forward passes of a scan: the clean images, and each at every noise."""
        how = self.images.setting
        return how.n * (1 + len(self.images.sigmas) * how.draws)


class Readings(Figures):
    """All networks of one seed's bank."""

    networks: tuple[Reading, ...]


class Cleansing(Figures):
    """Neural Cleanse on one network."""

    seed: int
    entry: Entry
    verdict: Cleansed


class Known(Figures):
    """A network that was trained elsewhere. target: None for a clean one."""

    name: str
    data: str
    target: int | None
    curve: Titration


@dataclass(frozen=True)
class Verdict:
    """One network, judged by a rule of other networks. guess: the class that noise leads to
    without a rule, if any; level: mean T at the noise that is judged.
    """

    kind: str
    target: int | None
    score: float
    suspected: int
    guess: int | None
    level: float
    over: bool


def verdicts(
    groups: Sequence[Sequence[Reading]], base: Base, data: str
) -> tuple[tuple[Verdict, ...], ...]:
    """For each bank the verdicts on its networks by the rule of all other banks; of a single bank,
    each half by the rule of the other.
    """
    if len(groups) > 1:
        folds = [list(group) for group in groups]
    else:  # every second one of each kind: kinds come in turn, after the clean ones
        order = sorted(groups[0], key=lambda one: one.entry.kind)
        folds = [order[::2], order[1::2]]
    judged = []
    for number, fold in enumerate(folds):
        others = [one for i, other in enumerate(folds) for one in other if i != number]
        rule = rule_of(others, base, data)
        judged.append(tuple(_verdict(one, rule, base) for one in fold))
    return tuple(judged) if len(groups) > 1 else (judged[0] + judged[1],)


def rule_of(networks: Sequence[Reading], base: Base, data: str) -> Rule:
    clean = [one.curve(base) for one in networks if one.entry.clean]
    trojaned = [one.curve(base) for one in networks if not one.entry.clean]
    return calibrate(clean, trojaned, Origin(data, "bank"))


def _verdict(one: Reading, rule: Rule, base: Base) -> Verdict:
    curve = one.curve(base)
    score, suspected = rule.score(curve)
    level = sum(class_shares(curve))
    over = score > rule.threshold
    return Verdict(one.entry.kind, one.entry.target, score, suspected, curve.target(), level, over)


def rows(
    groups: Sequence[Sequence[Reading]],
    by_images: Sequence[Sequence[Verdict]],
    by_noise: Sequence[Sequence[Verdict]],
    cleansed: Sequence[Cleansing],
) -> tuple[Row, ...]:
    """The networks, how well they are told apart and named, the same from noise images, and what
    Neural Cleanse says and costs.
    """
    kinds = kinds_of(by_images)
    table = _of_networks(groups)
    for kind in (ALL, *kinds):
        table.append(_area(f"AUROC of the scan, {kind}", by_images, kind))
    for kind in (ALL, *kinds):
        table.append(_area(f"AUROC of T alone, {kind}", by_images, kind, level=True))
    for kind in (ALL, *kinds):
        table.append(_named(f"target named by the scan, {kind}", by_images, kind))
    table.append(_named(f"target named without a bank, {ALL}", by_images, ALL, guess=True))
    table += _decisions(by_images)
    table.append(_area(f"noise images: AUROC of the scan, {ALL}", by_noise, ALL))
    table.append(_area(f"noise images: AUROC of T alone, {ALL}", by_noise, ALL, level=True))
    table.append(_named(f"noise images: target named by the scan, {ALL}", by_noise, ALL))
    return (*table, *_of_cleansing(groups, cleansed))


def kinds_of(banks: Sequence[Sequence[Verdict]]) -> list[str]:
    """The kinds of trojaned networks, in order."""
    return list(dict.fromkeys(v.kind for bank in banks for v in bank if v.target is not None))


def _of_networks(groups: Sequence[Sequence[Reading]]) -> list[Row]:
    """Accuracy, and how often the backdoors work."""
    table: list[Row] = []
    for kind in dict.fromkeys(one.entry.kind for group in groups for one in group):
        mine = [[one.entry for one in group if one.entry.kind == kind] for group in groups]
        n = sum(map(len, mine))
        right = [statistics.fmean(e.accuracy for e in entries) for entries in mine]
        table.append(Row.per_seed(f"{kind}: accuracy of the networks", right, n))
        if mine[0][0].success is not None:
            worked = [statistics.fmean(e.success or 0.0 for e in entries) for entries in mine]
            table.append(Row.per_seed(f"{kind}: success of the backdoors", worked, n))
    return table


def split(bank: Sequence[Verdict], kind: str) -> tuple[list[Verdict], list[Verdict]]:
    """The clean ones, and the trojaned ones of a kind."""
    clean = [v for v in bank if v.target is None]
    return clean, [v for v in bank if v.target is not None and kind in (ALL, v.kind)]


def _area(what: str, banks: Sequence[Sequence[Verdict]], kind: str, level: bool = False) -> Row:
    """AUROC per bank; the interval is that of the mean, with the networks of all banks."""
    areas, m, n = [], 0, 0
    for bank in banks:
        clean, trojaned = split(bank, kind)
        scores = [[v.level if level else v.score for v in group] for group in (clean, trojaned)]
        areas.append(auroc(*scores))
        m, n = m + len(clean), n + len(trojaned)
    ci95 = auroc_interval(statistics.fmean(areas), m, n)
    return Row(what=what, ours=tuple(areas), n=m + n, unit="", ci95=ci95)


def _named(what: str, banks: Sequence[Sequence[Verdict]], kind: str, guess: bool = False) -> Row:
    groups = [split(bank, kind)[1] for bank in banks]
    hits = [sum((v.guess if guess else v.suspected) == v.target for v in g) for g in groups]
    return Row.share(what, hits, [len(g) for g in groups])


def _decisions(banks: Sequence[Sequence[Verdict]]) -> list[Row]:
    """At the threshold of the rule."""
    groups = [split(bank, ALL) for bank in banks]
    return [
        Row.share(
            "clean networks suspected",
            [sum(v.over for v in clean) for clean, _ in groups],
            [len(clean) for clean, _ in groups],
        ),
        Row.share(
            "trojaned networks found",
            [sum(v.over for v in trojaned) for _, trojaned in groups],
            [len(trojaned) for _, trojaned in groups],
        ),
    ]


def _of_cleansing(groups: Sequence[Sequence[Reading]], cleansed: Sequence[Cleansing]) -> list[Row]:
    seeds = sorted({one.seed for one in cleansed})
    per_seed = [[one for one in cleansed if one.seed == seed] for seed in seeds]
    scans = [statistics.fmean(one.seconds for one in group) for group in groups]
    slow = [statistics.fmean(one.verdict.seconds for one in mine) for mine in per_seed]
    passes = [2 * statistics.fmean(one.verdict.passes for one in mine) for mine in per_seed]
    n, scanned = len(cleansed), sum(map(len, groups))
    trojaned = [[one for one in mine if not one.entry.clean] for mine in per_seed]
    clean = [[one for one in mine if one.entry.clean] for mine in per_seed]
    return [
        Row.per_seed("scan, processor seconds", scans, scanned, ""),
        Row.per_seed("Neural Cleanse, processor seconds", slow, n, ""),
        Row.per_seed(RATIO, [a / b for a, b in zip(slow, scans, strict=True)], n, ""),
        Row.per_seed(
            "Neural Cleanse / scan, passes forward and backward",
            [p / group[0].passes for p, group in zip(passes, groups, strict=True)], n, "",
        ),
        Row.share(
            "Neural Cleanse: smallest mask at the target",
            [sum(o.verdict.smallest == o.entry.target for o in mine) for mine in trojaned],
            [len(mine) for mine in trojaned],
        ),
        Row.share(
            "Neural Cleanse: trojaned networks flagged",
            [sum(bool(o.verdict.flagged) for o in mine) for mine in trojaned],
            [len(mine) for mine in trojaned],
        ),
        Row.share(
            "Neural Cleanse: clean networks flagged",
            [sum(bool(o.verdict.flagged) for o in mine) for mine in clean],
            [len(mine) for mine in clean],
        ),
    ]  # fmt: skip


def known_row(known: Known, groups: Sequence[Sequence[Reading]], data: str) -> Row:
    """A packed network. On the data of the banks it has a score; else there is only its level of T,
    and the class that noise leads to.
    """
    is_one = "clean" if known.target is None else f"target {known.target}"
    n = known.curve.setting.n
    first = groups[0][0].images
    if known.data == data and known.curve.setting == first.setting:
        rule = rule_of([one for group in groups for one in group], "images", data)
        score, suspected = rule.score(known.curve)
        what = f"{known.name} ({is_one}), another architecture: score"
        setting = f"suspected {suspected}; threshold {rule.threshold:.2f}"
        return Row(what=what, ours=(score,), n=n, unit="", setting=setting)
    level = sum(class_shares(known.curve))
    what = f"{known.name} ({is_one}), no bank: T at moderate noise"
    led = known.curve.target()
    setting = "no answer changes" if led is None else f"noise leads to {led}"
    return Row(what=what, ours=(level,), n=n, setting=setting)


def judge(table: Sequence[Row]) -> tuple[Said, str]:
    """An AUROC of at least 0.9 over all kinds, the target named in three of four, and at least a
    hundred times as fast. No better than chance contradicts.
    """
    found: Mapping[str, Row] = {row.what: row for row in table}
    area, named, ratio = (found[what] for what in (SEPARATES, NAMES, RATIO))
    low, high = area.ci95 or (area.mean, area.mean)
    kinds = [row for what, row in found.items() if what.startswith("AUROC of the scan, ")]
    each = ", ".join(f"{row.what.split(', ')[1]} {row.mean:.2f}" for row in kinds[1:])
    text = (
        f"AUROC {area.mean:.2f} ({low:.2f} to {high:.2f}; by kind: {each}), target named in "
        f"{100 * named.mean:.0f} %, {ratio.mean:.0f} times as fast as Neural Cleanse"
    )
    if area.mean <= 0.5:
        return "contradicts", text
    enough = area.mean >= AREA and named.mean >= NAMED and ratio.mean >= FASTER
    return ("shows" if enough else "does not show at this scale"), text
