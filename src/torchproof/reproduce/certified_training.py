"""Certified training: what can be proved of networks that were trained on bounds, and what attacks
leave of them (Gowal et al. 2019 and its successors).
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from matplotlib.figure import Figure
from torch import nn

from torchproof.core.threats import Threat, parse
from torchproof.data.dataset import Dataset
from torchproof.evaluate import certify, evaluate
from torchproof.nn import load_model
from torchproof.recipes import Plan, recipe
from torchproof.report.pictures import content
from torchproof.reproduce.ahead import shared
from torchproof.reproduce.experiment import Outcome, Request, Row, Verdict, available, conclude
from torchproof.reproduce.figures import Figures
from torchproof.reproduce.subjects import seeded, tested_on, trained
from torchproof.train import Settings

PAPER = (
    "Gowal et al. 2019; Zhang et al. 2020 (CROWN-IBP); Mueller et al. 2023 (SABR); De Palma et al. "
    "2024 (MTL-IBP)"
)
CLAIM = (
    "training on bounds gives networks whose robustness can be proved, where that of adversarial "
    "training cannot; small boxes and mixed losses cost less clean accuracy than interval bounds"
)
BOARD = "certified, 10,000 images, SoK leaderboard"
# Of the leaderboard that goes with the survey of certified robustness; other, larger networks.
PUBLISHED = {
    ("linf:0.1", "SABR"): 0.9822,
    ("linf:0.3", "IBP"): 0.9195,
    ("linf:0.3", "CROWN-IBP"): 0.9298,
    ("linf:0.3", "SABR"): 0.9340,
}
VERIFIERS, SLOTS = ("ibp", "crown-ibp", "crown"), 32
GAIN = 0.20
AT, IBP, FREER = "AT", "IBP", ("SABR", "MTL-IBP")
# The share of the box, and of the bounded loss. SABR's are the paper's, MTL-IBP's our choice.
LAM = {"linf:0.1": 0.4, "linf:0.3": 0.6}
ALPHA = {"linf:0.1": 0.2, "linf:0.3": 0.3}
# Many short steps at a high rate: with a rate of 2e-3, or a few hundred steps, losses without a
# clean term stay at ln 10, a constant answer, once the radius has grown.
_SETTINGS = Settings.of(epochs=8, batch_size=25, lr=5e-3, optimiser="adam", schedule="cyclic",
                        weight_decay=0.0, clip=10.0, held_out=200, held_out_steps=1)  # fmt: skip


class Found(Figures):
    """What one network holds, counts of n images; broken: certified images that an attack broke."""

    clean: int
    attacked: int
    certified: int
    broken: int


@dataclass(frozen=True)
class Setting:
    """The plans of an experiment by threat and method, and how many images are tested."""

    plans: Mapping[tuple[str, str], Plan]
    n: int
    suite: str


def methods(threat: str, ramp: str, pgd: str = "steps=5, length=0.4") -> dict[str, str]:
    """The methods that are compared at a threat; pgd: arguments of the attack within them."""
    lam, alpha = LAM.get(threat, 0.4), ALPHA.get(threat, 0.5)
    return {
        AT: f"AT({pgd}, ramp=0.2)",
        IBP: f"IBP(ramp={ramp})",
        "CROWN-IBP": f"CROWNIBP(ramp={ramp})",
        "SABR": f"SABR(ramp={ramp}, lam={lam}, {pgd})",
        "MTL-IBP": f"MTLIBP(ramp={ramp}, alpha={alpha}, {pgd})",
    }


def setting(request: Request) -> Setting:
    """Small networks on few images, or the authors' settings as far as recipes have them."""
    small = Plan(data="mnist", model="small-cnn", settings=_SETTINGS, n=5000)
    threats, n, suite = ("linf:0.1", "linf:0.3"), 200, "fast"
    if request.scale == "paper":
        small, n, suite = recipe("mnist-ibp"), 10000, "standard"
    elif not available("mnist", request):
        small = recipe("digits-at")
        threats = ("linf:0.05", "linf:0.15")
    how = ("Ramp(0.1, 0.7)", "steps=3, length=0.5")
    if request.scale == "paper":
        how = ("Ramp(0.05, 0.3)", "steps=8, length=0.25")
    plans = {
        (threat, name): small.model_copy(update={"threat": threat, "method": method})
        for threat in threats
        for name, method in methods(threat, *how).items()
    }
    return Setting(plans, n, suite)


def certified_training(request: Request) -> Outcome:
    """Certified and adversarial training: clean, attacked and certified accuracy."""
    chosen = setting(request)
    request.claim({f"{t} {m}": p.model_dump_json() for (t, m), p in chosen.plans.items()})
    some = next(iter(chosen.plans.values()))
    test = tested_on(request, some.data, chosen.n)
    named = {f"{threat}, {name}": (threat, name) for threat, name in chosen.plans}
    found = shared(
        request, named, lambda name, seed: _measure(request, chosen, named[name], seed, test)
    )
    table = {named[name]: each for name, each in found.items()}
    return conclude(
        request, name="certified-training", paper=PAPER, claim=CLAIM,
        settings={
            "data": some.data, "model": some.model, "suite": chosen.suite,
            "certified by": ", then ".join(VERIFIERS),
            "training": f"{some.settings.epochs} epochs, {some.n or 'all'} training images",
            "weights": "last",
        },
        rows=_rows(table, len(test)), judged=judge(table, len(test)),
        picture=_picture(table, len(test)),
    )  # fmt: skip


def _measure(
    request: Request, chosen: Setting, key: tuple[str, str], seed: int, test: Dataset
) -> Found:
    """Trains, attacks and certifies one network; finished parts are read back."""
    threat, name = key
    folder = request.out / threat.replace(":", "-") / f"{name}-seed{seed}"
    kept = folder / "found.json"
    if kept.exists():
        return Found.read(kept)
    trained(request, seeded(request, chosen.plans[key], seed), folder)
    model = load_model(str(folder / "last.safetensors")).model
    about = parse(threat)
    report = evaluate(
        model, test, about, chosen.suite, seed=seed, out=folder / "attacked",
        resume=(folder / "attacked").exists(), save_adversarial=False, name=f"{name} {seed}",
    )  # fmt: skip
    robust = {e.id for e in report.examples if e.status == "robust"}
    sure = _certified(model, test, about)
    found = Found(
        clean=round(report.clean_accuracy * len(test)), attacked=len(robust), certified=len(sure),
        broken=len(sure - robust),
    )  # fmt: skip
    found.write(kept)
    request.say(f"{threat}, {name}, seed {seed}: {found.model_dump()} of {len(test)}")
    return found


def _certified(model: nn.Module, test: Dataset, about: Threat) -> set[int]:
    """The rows that some bound certifies; the dear ones are asked about the rest alone."""
    sure: set[int] = set()
    left = torch.arange(len(test))
    for method in VERIFIERS:
        found = certify(model, test.subset(left), about, method, ids=left, slots=SLOTS)
        sure |= {row.id for row in found.examples if row.status == "certified"}
        left = torch.tensor([row.id for row in found.examples if row.status == "undecided"])
        if not len(left):
            break
    return sure


Table = Mapping[tuple[str, str], list[Found]]


def _rows(table: Table, n: int) -> tuple[Row, ...]:
    rows: list[Row] = []
    for (threat, name), each in table.items():
        known = PUBLISHED.get((threat, name))
        of = [n] * len(each)
        for what in ("clean", "attacked", "certified"):
            row = Row.share(f"{threat}, {name}: {what}", [getattr(f, what) for f in each], of)
            if known and what == "certified":
                told = f"{BOARD}; ours {100 * (row.mean - known):+.1f} points"
                row = row.model_copy(update={"published": known, "setting": told})
            rows.append(row)
        broken = tuple(float(found.broken) for found in each)
        what = f"{threat}, {name}: certified, but broken"
        rows.append(Row(what=what, ours=broken, n=n, unit=""))
    return tuple(rows)


def judge(table: Table, n: int) -> tuple[Verdict, str]:
    """Shows: at every threat IBP certifies GAIN more than adversarial training, and SABR or MTL-IBP
    keeps more clean accuracy than IBP. Contradicts: IBP certifies less somewhere, or a certified
    image was broken.
    """
    broken = sum(found.broken for each in table.values() for found in each)
    gains, freer = {}, {}
    for threat in dict.fromkeys(threat for threat, _ in table):
        gains[threat] = _mean(table, threat, IBP, "certified", n) - _mean(
            table, threat, AT, "certified", n
        )
        best = max(_mean(table, threat, name, "clean", n) for name in FREER)
        freer[threat] = best - _mean(table, threat, IBP, "clean", n)
    told = "; ".join(
        f"at {threat} IBP certifies {100 * gains[threat]:+.1f} points against adversarial "
        f"training, and the better of SABR and MTL-IBP has {100 * freer[threat]:+.1f} points of "
        "clean accuracy against IBP"
        for threat in gains
    )
    text = f"{told}; {broken} certified images were broken by an attack"
    if broken or min(gains.values()) < 0:
        return "contradicts", text
    shows = min(gains.values()) >= GAIN and min(freer.values()) > 0
    return ("shows" if shows else "does not show at this scale"), text


def _mean(table: Table, threat: str, name: str, what: str, n: int) -> float:
    return statistics.fmean(getattr(found, what) / n for found in table[threat, name])


def _picture(table: Table, n: int) -> bytes:
    """Clean, attacked and certified accuracy of each method, a panel per threat, as PNG."""
    threats = list(dict.fromkeys(threat for threat, _ in table))
    figure = Figure(figsize=(7.5, 3.4), layout="constrained")
    panels = figure.subplots(1, len(threats), sharey=True, squeeze=False)[0]
    colours = {"clean": "#8a8f98", "attacked": "#d29922", "certified": "#1f6feb"}
    for axes, threat in zip(panels, threats, strict=True):
        names = [name for t, name in table if t == threat]
        for shift, (what, colour) in zip((-0.27, 0.0, 0.27), colours.items(), strict=True):
            places = [i + shift for i in range(len(names))]
            means = [100 * _mean(table, threat, name, what, n) for name in names]
            axes.bar(places, means, 0.25, color=colour, alpha=0.4, label=what)
            for place, name in zip(places, names, strict=True):
                dots = [100 * getattr(found, what) / n for found in table[threat, name]]
                axes.scatter([place] * len(dots), dots, color=colour, s=9, zorder=3)
        axes.set_xticks(range(len(names)), names, rotation=20, ha="right")
        axes.set_title(threat)
        axes.grid(axis="y", alpha=0.3)
    panels[0].set_ylabel("accuracy, % (a dot per seed)")
    panels[0].set_ylim(0, 102)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=8, ncols=3, loc="outside upper center")
    return content(figure)
