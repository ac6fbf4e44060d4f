"""Of `reproduce detectors`: the table and the verdict."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from torchproof.core.metrics import clopper_pearson, student
from torchproof.core.ranking import auroc_interval
from torchproof.detect.adaptive import DROP
from torchproof.detect.bench.record import Bench, Judged, Kind
from torchproof.reproduce.experiment import Row, Verdict

LOW = 0.7
"""Where the AUROC on the main attack is below, the documents have to explain why."""
POINTS = 0.02
"""How far the false-alarm rate may be from what was asked for."""
MAIN = "PGD linf:0.3"
SQUEEZED = "CW l2"
AIMS: Mapping[str, tuple[str, float]] = {
    **{name: (MAIN, 0.90) for name in ("kd-bu", "lid", "magnet", "nss", "dnr", "nic")},
    "sfad": (MAIN, 0.85), "feature-squeezing": (SQUEEZED, 0.85),
}  # fmt: skip
_AIM = "an estimate made beforehand, not published"

Found = Mapping[str, Sequence[Bench]]
"""By data set one comparison per seed."""


def fits(each: Sequence[Bench], detector: str) -> list[Judged]:
    """Of each seed at which the detector was judged, the fit that is attacked adaptively: of a
    supervised one that on the main attack.
    """
    found = [one.of(detector, one.main) for one in each]
    return [one for one in found if one is not None]


def detectors(each: Sequence[Bench]) -> list[str]:
    return list(dict.fromkeys(name for one in each for name in one.detectors))


def rows(data: str, each: Sequence[Bench]) -> list[Row]:
    """The classifier, then each detector: the main attack, the attacks it did not learn, images of
    other kinds, false alarms, the adaptive attack.
    """
    main = next(a for a in each[0].attacks if a.name == each[0].main)
    fooled = [next(a for a in one.attacks if a.name == one.main).fooled for one in each]
    table = [
        Row(what=f"{data}: classifier, clean accuracy", ours=tuple(one.accuracy for one in each),
            n=each[0].looked),
        Row.share(f"{data}: {main.name} succeeds", fooled, [one.test for one in each]),
    ]  # fmt: skip
    for name in detectors(each):
        table += _of_detector(f"{data}: {name}", data, name, each)
    return table


def _of_detector(about: str, data: str, name: str, each: Sequence[Bench]) -> list[Row]:
    main, made = each[0].main, fits(each, name)
    table = [*_areas(about, made, main, _aim(data, name, main))]
    if _aim(data, name, SQUEEZED) is not None:
        table += _areas(about, made, SQUEEZED, _aim(data, name, SQUEEZED))
    unseen = unseen_of(made, main)
    if unseen is not None:
        table += _areas(f"{about}, trained on {main}, lowest on others", made, unseen, None)
    others = {row.what: None for one in made for row in one.rows if row.kind == "elsewhere"}
    for images in others:
        table += _areas(f"{about}, images from elsewhere", made, images, None, "elsewhere")
    false = [round(one.alarms.share * one.alarms.n) for one in made]
    table.append(
        Row.share(f"{about}: false alarms, {100 * made[0].threshold.fpr:g} % asked for", false,
                  [one.alarms.n for one in made])
    )  # fmt: skip
    return [*table, *_of_adaptive(about, made)]


def _aim(data: str, name: str, attack: str) -> float | None:
    wanted, aim = AIMS.get(name, ("", None))
    return aim if data == "mnist" and wanted == attack else None


def _areas(
    about: str, made: Sequence[Judged], what: str, aim: float | None, kind: Kind = "successful"
) -> list[Row]:
    pairs = [(one.alarms.n, row) for one in made if (row := one.told(what, kind)) is not None]
    if not pairs:
        return []
    areas, n = [row.auroc for _, row in pairs], [row.n for _, row in pairs]
    found = _area(f"{about}: AUROC, {what}", areas, [clean for clean, _ in pairs], n)
    setting = _AIM if aim is not None else ""
    return [found.model_copy(update={"published": aim, "setting": setting})]


def _area(what: str, areas: Sequence[float], clean: Sequence[int], n: Sequence[int]) -> Row:
    """AUROC per seed. The interval holds Student's over seeds and that of all images together: the
    one knows nothing of areas that are all 1, the other nothing of training again.
    """
    low, high = auroc_interval(statistics.fmean(areas), sum(clean), sum(n))
    seeds = student(areas, 0.0, 1.0) or (low, high)
    return Row(what=what, ours=tuple(areas), n=n[0], unit="",
               ci95=(min(low, seeds[0]), max(high, seeds[1])))  # fmt: skip


def unseen_of(made: Sequence[Judged], main: str) -> str | None:
    """The attack with the lowest mean AUROC among those that a supervised detector has not learnt;
    None for a detector that learns none.
    """
    if not made or made[0].trained_on is None:
        return None
    names = {row.what for row in made[0].rows if row.kind == "successful"} - {main}
    areas = {
        name: statistics.fmean(told)
        for name in sorted(names)
        if (told := [row.auroc for one in made if (row := one.told(name)) is not None])
    }
    return min(areas, key=lambda name: areas[name], default=None)


def _of_adaptive(about: str, made: Sequence[Judged]) -> list[Row]:
    found = [one.adaptive for one in made if one.adaptive is not None]
    known = [one for one in found if one.after is not None]
    if not found:
        return []
    table = []
    if known:
        after = [one.after for one in known if one.after is not None]
        clean = [one.alarms.n for one in made if one.adaptive and one.adaptive.after is not None]
        n = [one.misclassified for one in known]
        table.append(_area(f"{about}: AUROC, adaptive attack", after, clean, n))
        drops = [one.drop for one in known if one.drop is not None]
        if drops:
            row = Row.per_seed(f"{about}: fall of the AUROC", drops, n[0], "")
            table.append(row.model_copy(update={"ci95": student(drops, -1.0, 1.0)}))
    hits = [round(one.robust.share * one.n) for one in found]
    return [
        *table,
        Row.share(f"{about}: robust accuracy with it, adaptive attack", hits,
                  [one.n for one in found]),
    ]  # fmt: skip


def judge(found: Found) -> tuple[Verdict, str]:
    """Shows where, for every detector on every data set, the false-alarm rate over all seeds is
    within 2 points of what was asked for, and every supervised one has a lower AUROC on at least
    one attack that it has not learnt; contradicts where a rate is more than 2 points above by the
    lower end of its interval, or no supervised detector is worse anywhere. The fall of the AUROC
    under the adaptive attack is told, and where it is below 0.2 that the attack failed.
    """
    rates = {(data, name): _rate(fits(each, name)) for data, each in found.items()
             for name in detectors(each)}  # fmt: skip
    off = [key for key, (share, _, asked) in rates.items() if abs(share - asked) > POINTS]
    above = [key for key, (_, ci95, asked) in rates.items() if ci95[0] > asked + POINTS]
    lower = {
        (data, name): fell
        for data, each in found.items()
        for name in detectors(each)
        if (fell := _falls(fits(each, name), each[0].main)) is not None
    }
    refused = [(data, name) for data, each in found.items() for b in each for name in b.refused]
    told = [_told_rates(rates, off), _told_lower(lower)]
    for data, each in found.items():
        told += [_told_adaptive(data, each), _told_low(data, each)]
    spared = [(data, name) for data, each in found.items() for b in each for name in b.unattacked]
    told += [f"refused: {_names(refused)}"] if refused else []
    told += [f"adaptive attack refused: {_names(spared)}"] if spared else []
    text = "; ".join(told)
    if above or (lower and not any(lower.values())):
        return "contradicts", text
    shows = not off and all(lower.values()) and not refused and not spared
    return ("shows" if shows else "does not show at this scale"), text


def _rate(made: Sequence[Judged]) -> tuple[float, tuple[float, float], float]:
    """False alarms over all seeds, their interval, and what was asked for."""
    n = sum(one.alarms.n for one in made)
    hits = sum(round(one.alarms.share * one.alarms.n) for one in made)
    return hits / n, clopper_pearson(hits, n), made[0].threshold.fpr


def _falls(made: Sequence[Judged], main: str) -> bool | None:
    """Is the mean AUROC lower on an attack not learnt? None for a detector that learns none."""
    unseen = unseen_of(made, main)
    if unseen is None:
        return None
    pairs = [(one.told(main), one.told(unseen)) for one in made]
    return statistics.fmean(b.auroc - a.auroc for a, b in pairs if a and b) < 0


def fall(made: Sequence[Judged]) -> float | None:
    """The mean fall of the AUROC under the adaptive attack; None without a misclassified image."""
    falls = [one.adaptive.drop for one in made if one.adaptive and one.adaptive.drop is not None]
    return statistics.fmean(falls) if falls else None


def _told_rates(
    rates: Mapping[tuple[str, str], tuple[float, tuple[float, float], float]],
    off: Sequence[tuple[str, str]],
) -> str:
    shares = [share for share, _, _ in rates.values()]
    asked = next(iter(rates.values()))[2]
    text = (
        f"false alarms {100 * min(shares):.1f} to {100 * max(shares):.1f} %, {100 * asked:g} % "
        "asked for"
    )
    return f"{text} (beyond 2 points: {_names(off)})" if off else text


def _told_lower(lower: Mapping[tuple[str, str], bool]) -> str:
    kept = [key for key, fell in lower.items() if not fell]
    text = "every supervised detector is worse on an attack that it has not learnt"
    return f"not worse on any attack that it has not learnt: {_names(kept)}" if kept else text


def _told_adaptive(data: str, each: Sequence[Bench]) -> str:
    """How far the AUROC falls, and for whom the attack failed."""
    falls = {name: fall(fits(each, name)) for name in detectors(each)}
    done = [value for value in falls.values() if value is not None and value >= DROP]
    failed = [
        f"{name} ({'nothing misclassified' if value is None else f'{value:.2f}'}, robust accuracy "
        f"{_robust(fits(each, name))})"
        for name, value in falls.items()
        if value is None or value < DROP
    ]
    text = (
        f"on {data} the adaptive attack lowers the AUROC of {len(done)} of {len(falls)} detectors"
    )
    text += f" by {min(done):.2f} to {max(done):.2f}" if done else ""
    return f"{text}; it failed for {', '.join(failed)}" if failed else text


def _robust(made: Sequence[Judged]) -> str:
    shares = [one.adaptive.robust.share for one in made if one.adaptive is not None]
    return f"{100 * statistics.fmean(shares):.0f} %" if shares else "not measured"


def _told_low(data: str, each: Sequence[Bench]) -> str:
    areas = {}
    for name in detectors(each):
        told = [row.auroc for one in fits(each, name) if (row := one.told(each[0].main))]
        if told:
            areas[name] = statistics.fmean(told)
    low = [f"{name} {value:.2f}" for name, value in areas.items() if value < LOW]
    text = (
        f"AUROC on {each[0].main}, {data}: {min(areas.values()):.2f} to {max(areas.values()):.2f}"
    )
    return f"{text}; below {LOW:g}: {', '.join(low)}" if low else text


def _names(keys: Sequence[tuple[str, str]]) -> str:
    return ", ".join(dict.fromkeys(f"{name} on {data}" for data, name in keys))
