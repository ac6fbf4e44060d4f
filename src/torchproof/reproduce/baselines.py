"""The baselines that every defence is compared with, in one table. TRADES and MART have rows in
`fat`, THRM in `thrm`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torchproof.recipes.comparison import Line
from torchproof.reproduce.experiment import Row, Verdict
from torchproof.reproduce.study import MNIST, Study, points


def judge(lines: Mapping[str, Line], _: Sequence[Row]) -> tuple[Verdict, str]:
    """Averaging shows its claim with half a point of robust accuracy more than AT."""
    at = lines["AT"].mean("robust")
    gains = {name: line.mean("robust") - at for name, line in lines.items() if name != "AT"}
    best = max(gains, key=lambda name: gains[name])
    text = (
        f"robust accuracy against AT: EMA {points(gains['EMA'])}, SWA {points(gains['SWA'])}; the "
        f"most of all rows has {best} with {points(gains[best])}"
    )
    if max(gains["EMA"], gains["SWA"]) < -0.02:
        return "contradicts", text
    shows = max(gains["EMA"], gains["SWA"]) >= 0.005
    return ("shows" if shows else "does not show at this scale"), text


_PGD = "steps=7, length=0.25, ramp=0.2"
baselines_study = Study(
    name="baselines",
    paper="Gowal et al. 2020, arXiv 2010.03593; Chen et al. 2021 (averaged weights)",
    claim="averaged weights are more robust than the weights of adversarial training itself",
    rows={
        "AT": {"method": f"AT({_PGD})", "paper": "cifar10-at"},
        "EMA": {
            "method": f"EMA(AT({_PGD}))",
            "paper": {"recipe": "cifar10-at", "settings": {"ema": 0.995}},
        },
        "SWA": {
            "method": f"SWA(AT({_PGD}), start=0.5)",
            "paper": {
                "recipe": "cifar10-at",
                "method": "SWA(AT(steps=10, length=0.25), start=0.5)",
            },
        },
        "label smoothing": {"method": f"LabelSmoothing(AT({_PGD}), amount=0.1)"},
        "ALP": {"method": f"ALP({_PGD})", "paper": "cifar10-alp"},
        "SCORE": {"method": f"SCORE({_PGD})", "paper": "cifar10-score"},
        "HE": {
            "method": f"HE({_PGD})",
            "model": "small-cnn(head='cosine', scale=10)",
            "paper": "cifar10-he",
        },
    },
    judge=judge,
    base=MNIST,
    published={
        "HE": (0.5374, "AutoAttack, WRN-34-20, CIFAR-10, RobustBench"),
        "SCORE": (0.6104, "AutoAttack, WRN-28-10 with 1M generated images, RobustBench"),
    },
)
