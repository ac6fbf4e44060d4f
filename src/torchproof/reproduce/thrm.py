"""THRM and TRADES at equal clean accuracy, by the risk of false friends (Tao et al. 2021)."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from torchproof.core.threats import parse
from torchproof.evaluate import hypocrisy
from torchproof.evaluate.friends import HypocrisyRecord
from torchproof.recipes import Plan, recipe
from torchproof.recipes.small import SETTINGS
from torchproof.report.pictures import content
from torchproof.reproduce.ahead import shared
from torchproof.reproduce.experiment import Outcome, Request, Row, Verdict, available, conclude
from torchproof.reproduce.study import DIGITS
from torchproof.reproduce.subjects import seeded, tested_on, trained
from torchproof.train import Settings

PAPER = "Tao, Feng, Yi and Chen 2021 (AAAI 2022), arXiv 2012.14738"
CLAIM = (
    "at equal clean accuracy THRM leaves fewer errors that a false friend can hide than TRADES "
    "does, and neither leaves none"
)
TRADES, THRM = "TRADES", "THRM"
NEAR = 0.005
"""Clean accuracies so far apart, in the mean over seeds, count as equal."""

# From the accuracies of the paper: (95.17 - 81.05) / 18.95 for TRADES, (94.18 - 81.19) / 18.81.
PUBLISHED = 0.7451 - 0.6906
SETTING = (
    "74.5 % at a clean accuracy of 81.05 % and 69.1 % (beta 40) at 81.19 %, PGD-20, ResNet-18, "
    "CIFAR-10, linf 8/255"
)

HYPOCRITICAL = "hypocritical_risk"
Key = tuple[str, float]
Table = Mapping[Key, Sequence[HypocrisyRecord]]


@dataclass(frozen=True)
class Sweep:
    """The plans by method and weight, the threat of training and judgement, and test images."""

    plans: Mapping[Key, Plan]
    threat: str
    tests: int


def sweep(request: Request) -> Sweep:
    """Small networks on MNIST at eps 0.1, where most errors of robust networks can be hidden but
    not all (at 0.2 hardly any remain), or the paper's settings.
    """
    weights: dict[str, tuple[float, ...]] = {TRADES: (1, 6), THRM: (1, 6, 40)}
    steps = "steps=5, length=0.25, ramp=0.2"
    if request.scale == "paper":
        base = recipe("cifar10-thrm")
        weights = {TRADES: (1, 6, 10, 20), THRM: (1, 5, 10, 20, 40, 60, 80, 100)}
        steps, threat, tests = "steps=10, length=0.25", "linf:8/255", 10_000
    elif available("mnist", request):
        few = Settings.of({**SETTINGS, "held_out": 0})
        base = Plan(data="mnist", model="small-cnn", settings=few, n=2000)
        threat, tests = "linf:0.1", 1500
    else:
        usual = DIGITS["settings"]
        assert isinstance(usual, Mapping)
        few = Settings.of({**usual, "held_out": 0})
        base = Plan(data="digits", model=str(DIGITS["model"]), settings=few)
        threat, tests = "linf:0.1", 360
    plans = {
        (name, beta): _weighted(base, name, beta, steps, threat)
        for name, betas in weights.items()
        for beta in betas
    }
    return Sweep(plans, threat, tests)


def _weighted(base: Plan, name: str, beta: float, steps: str, threat: str) -> Plan:
    """The authors train at half the rate from a weight of 10 on; the small settings stay."""
    settings = base.settings
    if base.data == "cifar10":
        settings = settings.model_copy(update={"lr": 0.05 if beta >= 10 else 0.1})
    method = f"{name}({steps}, beta={beta})"
    return base.model_copy(update={"method": method, "threat": threat, "settings": settings})


def thrm_experiment(request: Request) -> Outcome:
    """Hypocritical risk of THRM and TRADES over their weights, at equal clean accuracy (Tao et al.
    2021).
    """
    chosen = sweep(request)
    request.claim({f"{m} {b:g}": plan.model_dump_json() for (m, b), plan in chosen.plans.items()})
    keys = {f"{name} {beta:g}": (name, beta) for name, beta in chosen.plans}
    found = shared(request, keys, lambda name, seed: _measured(request, chosen, keys[name], seed))
    table = {keys[name]: records for name, records in found.items()}
    some = next(iter(chosen.plans.values()))
    return conclude(
        request, name="thrm", paper=PAPER, claim=CLAIM,
        settings={
            "data": some.data, "network": some.model, "threat": chosen.threat,
            "training": f"{some.settings.epochs} epochs on {some.n or 'all'} images, last weights",
            "risk": "worst case of FGSM, PGD-20 and C&W-100 on the errors among the first "
            f"{table[next(iter(table))][0].n} test images; adversarial risk: PGD-20",
        },
        rows=rows(table), judged=judge(table), picture=picture(table),
    )  # fmt: skip


def _measured(request: Request, chosen: Sweep, key: Key, seed: int) -> HypocrisyRecord:
    """One network, trained and attacked; what is finished is read back."""
    name = f"{key[0]} {key[1]:g}"
    folder = request.out / name / f"seed{seed}"
    ready = seeded(request, chosen.plans[key], seed)
    model = trained(request, ready, folder / "training")
    test, out = tested_on(request, ready.plan.data, chosen.tests), folder / "hypocrisy"
    found = hypocrisy(
        model, test, parse(chosen.threat), seed=seed, out=out, resume=out.exists(), images=False,
        name=f"{name} {seed}",
    ).record  # fmt: skip
    shares = ", ".join(f"{k} {_value(found, k):.3f}" for k in RISKS)
    request.say(f"{name}, seed {seed}: {shares}")
    return found


RISKS = {
    "clean_accuracy": "clean accuracy",
    "adversarial_risk": "adversarial risk",
    HYPOCRITICAL: "hypocritical risk",
}


def _value(record: HypocrisyRecord, risk: str) -> float:
    """0 where there is nothing that could be at risk."""
    return record.risks[risk].value or 0.0


def mean(records: Sequence[HypocrisyRecord], risk: str) -> float:
    """Over seeds."""
    return statistics.fmean(_value(record, risk) for record in records)


def pairs(table: Table) -> list[tuple[Key, Key]]:
    """To each weight of TRADES that of THRM with the nearest clean accuracy (means over seeds)."""
    clean = {key: mean(records, "clean_accuracy") for key, records in table.items()}
    ours = [key for key in table if key[0] == THRM]
    return [
        (key, min(ours, key=lambda other: abs(clean[other] - clean[key])))
        for key in table
        if key[0] == TRADES
    ]


def differences(table: Table, pair: tuple[Key, Key], risk: str) -> list[float]:
    """The first of the pair minus the second, per seed."""
    one, other = (table[key] for key in pair)
    return [_value(a, risk) - _value(b, risk) for a, b in zip(one, other, strict=True)]


def _equal(table: Table, pair: tuple[Key, Key]) -> bool:
    return abs(statistics.fmean(differences(table, pair, "clean_accuracy"))) <= NEAR


def rows(table: Table) -> tuple[Row, ...]:
    """Clean accuracy and risks of every weight, and the differences of each pair."""
    found: list[Row] = []
    for (name, beta), records in table.items():
        for risk, words in RISKS.items():
            shares = [record.risks[risk] for record in records]
            if sum(share.n for share in shares):
                hits, of = [s.hits for s in shares], [s.n for s in shares]
                found.append(Row.share(f"{name}, beta {beta:g}: {words}", hits, of))
    n = next(iter(table.values()))[0].n
    for pair in pairs(table):
        head = f"TRADES, beta {pair[0][1]:g}, minus THRM, beta {pair[1][1]:g}"
        for risk, words in RISKS.items():
            row = Row.per_seed(f"{head}: {words}", differences(table, pair, risk), n, least=-1.0)
            if risk == HYPOCRITICAL and _equal(table, pair):
                row = row.model_copy(update={"published": PUBLISHED, "setting": SETTING})
            found.append(row)
    return tuple(found)


def judge(table: Table) -> tuple[Verdict, str]:
    """By dominance, as accuracy need not fall with the weight: a weight is beaten where the other
    method has, at no lower clean accuracy, less risk by the lower end of Student's interval over
    seeds. Shows where every weight of TRADES is beaten and no network is without risk; contradicts
    where every weight of THRM is. The pairs of equal accuracy (within `NEAR`) are told.
    """
    text = "; ".join(_compared(table, key) for key in table)
    equal = [_paired(table, pair) for pair in pairs(table) if _equal(table, pair)]
    near = f"at clean accuracies within {100 * NEAR:g} points"
    text = f"hypocritical risk: {text}; {near}: {', '.join(equal) or 'none'}"
    all_beaten = {
        name: all(beaten(table, key) for key in table if key[0] == name) for name in (TRADES, THRM)
    }
    if all_beaten[THRM]:
        return "contradicts", text
    smallest = min(mean(records, HYPOCRITICAL) for records in table.values())
    shows = all_beaten[TRADES] and smallest > 0
    return ("shows" if shows else "does not show at this scale"), text


def least(table: Table, key: Key) -> Key | None:
    """The other method's weight with the least risk among those whose clean accuracy (mean over
    seeds) is no lower; None where there is none.
    """
    clean = mean(table[key], "clean_accuracy")
    known = [k for k in table if k[0] != key[0] and mean(table[k], "clean_accuracy") >= clean]
    return min(known, key=lambda k: mean(table[k], HYPOCRITICAL), default=None)


def beaten(table: Table, key: Key) -> bool:
    """Has the other method less risk at no lower accuracy, whatever the seeds?"""
    other = least(table, key)
    if other is None:
        return False
    ci95 = _apart(table, (key, other)).ci95
    return ci95 is not None and ci95[0] > 0


def _apart(table: Table, pair: tuple[Key, Key]) -> Row:
    """The risk of the first minus that of the second."""
    by_seed = differences(table, pair, HYPOCRITICAL)
    return Row.per_seed("", by_seed, len(by_seed), least=-1.0)


def _compared(table: Table, key: Key) -> str:
    """A weight beside the least risk of the other method at no lower accuracy."""
    other = least(table, key)
    name = THRM if key[0] == TRADES else TRADES
    if other is None:
        return f"{_said(table, key)}, {name} nowhere as accurate"
    return f"{_said(table, key)}, {_said(table, other)} ({_difference(table, (key, other))})"


def _paired(table: Table, pair: tuple[Key, Key]) -> str:
    (one, first), (other, second) = pair
    return f"{one} (beta {first:g}) minus {other} (beta {second:g}) {_difference(table, pair)}"


def _said(table: Table, key: Key) -> str:
    risk, clean = (100 * mean(table[key], what) for what in (HYPOCRITICAL, "clean_accuracy"))
    return f"{key[0]} (beta {key[1]:g}) {risk:.1f} % at {clean:.2f} %"


def _difference(table: Table, pair: tuple[Key, Key]) -> str:
    row = _apart(table, pair)
    within = "" if row.ci95 is None else " ({:+.1f} to {:+.1f})".format(
        *(100 * end for end in row.ci95)
    )  # fmt: skip
    return f"{100 * row.mean:+.1f} points{within}"


def picture(table: Table) -> bytes:
    """Both risks over clean accuracy: a line per method through its weights, a dot per seed."""
    figure = Figure(figsize=(8.5, 3.6), layout="constrained")
    panels = figure.subplots(1, 2)
    for axes, risk in zip(panels, (HYPOCRITICAL, "adversarial_risk"), strict=True):
        for name, colour in ((TRADES, "#8a8f98"), (THRM, "#1f6feb")):
            own = [(key[1], records) for key, records in table.items() if key[0] == name]
            spots = [(mean(r, "clean_accuracy"), mean(r, risk)) for _, r in own]
            x, y = ([100 * spot[i] for spot in spots] for i in (0, 1))
            axes.plot(x, y, "o-", color=colour, label=name, lw=1.2, ms=4)
            for (beta, records), left, top in zip(own, x, y, strict=True):
                axes.annotate(f"β {beta:g}", (left, top), xytext=(6, 5), fontsize=8,
                              color=colour, textcoords="offset points")  # fmt: skip
                dots = [(100 * _value(r, "clean_accuracy"), 100 * _value(r, risk)) for r in records]
                axes.scatter(*zip(*dots, strict=True), color=colour, s=9, alpha=0.4)
        axes.set_xlabel("clean accuracy, %")
        axes.set_ylabel(f"{RISKS[risk]}, %")
        axes.grid(alpha=0.3)
    held = panels[0].get_legend_handles_labels()
    figure.legend(*held, frameon=False, ncols=2, loc="outside upper center")
    return content(figure)
