"""Of `reproduce hypocritical`: what was published, the table, the verdict, the picture."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from matplotlib.figure import Figure

from torchproof.evaluate.friends import HypocrisyRecord
from torchproof.report.pictures import content
from torchproof.reproduce.experiment import Row, Verdict
from torchproof.reproduce.substandard import KINDS

# (data set, kind of network) -> a record per seed
Table = dict[tuple[str, str], list[HypocrisyRecord]]

SETTING = "ResNet-18, CIFAR-10, linf 8/255"
ATTACKS = ("FGSM", "PGD-20", "C&W-100")
ROBUST = ("PGD-AT", "TRADES")
SUBSTANDARD = tuple(kind for kind in KINDS if kind != "quality")
# Verification accuracies of the paper, by network and attack.
PUBLISHED = {
    "naive": {"clean": 0.085, "FGSM": 0.2829, "PGD-20": 0.8256, "C&W-100": 0.8823},
    "noise": {"clean": 0.086, "PGD-20": 0.998},
    "mislabelled": {"clean": 0.098, "PGD-20": 1.0},
    "poisoned": {"clean": 0.111, "PGD-20": 1.0},
    "quality": {"clean": 0.9438, "FGSM": 0.9960, "PGD-20": 1.0, "C&W-100": 1.0},
    "PGD-AT": {"clean": 0.8408, "FGSM": 0.8896, "PGD-20": 0.9692, "C&W-100": 0.9729},
    "TRADES": {"clean": 0.8105, "FGSM": 0.8628, "PGD-20": 0.9517, "C&W-100": 0.9608},
}


def rows(table: Table) -> tuple[Row, ...]:
    """Accuracies under each attack, and the worst-case risks, of every network."""
    found: list[Row] = []
    for (data, kind), records in table.items():
        head, known = f"{data}, {kind}", PUBLISHED[kind]
        n = [record.n for record in records]
        columns = {"clean": [record.risks["clean_accuracy"].hits for record in records]}
        for at, name in enumerate(ATTACKS):
            columns[name] = [r.attacks[at].verification_accuracy.hits for r in records]
        for name, hits in columns.items():
            more = {"published": known[name], "setting": SETTING} if name in known else {}
            found.append(Row.share(f"{head}: {name}", hits, n, **more))
        for risk in ("hypocritical_risk", "stability_risk_on_errors", "adversarial_risk"):
            shares = [record.risks[risk] for record in records]
            if sum(share.n for share in shares):
                what = f"{head}: {risk.replace('_', ' ')}"
                found.append(Row.share(what, [s.hits for s in shares], [s.n for s in shares]))
    return tuple(found)


def _accuracy(records: Sequence[HypocrisyRecord], attack: str) -> float:
    """The mean over seeds of the verification accuracy."""
    at = ATTACKS.index(attack)
    values = [record.attacks[at].verification_accuracy.value or 0.0 for record in records]
    return sum(values) / len(values)


def judge(table: Table) -> tuple[Verdict, str]:
    """Does the claim show, in means over seeds? Gains of at least 40 points for every substandard
    kind, FGSM <= PGD-20 <= C&W-100 for every network within half a point, and a risk left in PGD-AT
    and TRADES. An identity that fails, or a kind without any gain, contradicts.
    """
    exact = all(all(r.identities.values()) for records in table.values() for r in records)
    gains, order, left = {}, {}, {}
    for (data, kind), records in table.items():
        clean = sum(r.risks["clean_accuracy"].value or 0.0 for r in records) / len(records)
        by = [_accuracy(records, name) for name in ATTACKS]
        order[f"{data} {kind}"] = max(a - b for a, b in pairwise(by))
        if kind in SUBSTANDARD:
            gains[f"{data} {kind}"] = max(by) - clean
        if kind in ROBUST:
            hits, of = (sum(getattr(r.risks["hypocritical_risk"], k) for r in records)
                        for k in ("hits", "n"))  # fmt: skip
            left[f"{data} {kind}"] = hits / of if of else 0.0
    worst, least = max(order, key=order.__getitem__), min(gains, key=gains.__getitem__)
    text = (
        f"the identities {'hold exactly' if exact else 'fail'}; the least gain of a substandard "
        f"network is {100 * gains[least]:.1f} points ({least}); a stronger attack is at most "
        f"{100 * max(order[worst], 0.0):.1f} points below a weaker one ({worst}); hypocritical "
        "risk left: " + ", ".join(f"{name} {100 * value:.1f} %" for name, value in left.items())
    )
    if not exact or gains[least] <= 0:
        return "contradicts", text
    if gains[least] >= 0.40 and order[worst] <= 0.005 and min(left.values()) > 0:
        return "shows", text
    return "does not show at this scale", text


def picture(table: Table) -> bytes:
    """Clean and verification accuracy of every network, one panel per data set (PNG)."""
    names = list(dict.fromkeys(data for data, _ in table))
    figure = Figure(figsize=(5 * len(names), 3.4), layout="constrained")
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    for axes, data in zip(panels, names, strict=True):
        kinds = [kind for d, kind in table if d == data]
        for at, kind in enumerate(kinds):
            records = table[data, kind]
            clean = [100 * (r.risks["clean_accuracy"].value or 0.0) for r in records]
            moved = [100 * (r.risks["verification_accuracy"].value or 0.0) for r in records]
            axes.scatter([at] * len(clean), clean, s=14, color="#8a8f98", label="clean")
            axes.scatter([at] * len(moved), moved, s=14, color="#1f6feb", label="hypocritical")
        axes.set_xticks(range(len(kinds)), kinds, rotation=25, ha="right", fontsize=8)
        axes.set_ylim(-2, 102)
        axes.set_ylabel("accuracy, %")
        axes.set_title(data, fontsize=9)
        axes.grid(axis="y", alpha=0.3)
        axes.legend(*(part[:2] for part in axes.get_legend_handles_labels()), frameon=False)
    return content(figure)
