"""Zhang et al. 2020: images just beyond the boundary do less harm to clean accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torchproof.recipes.comparison import Line
from torchproof.reproduce.experiment import Row, Verdict
from torchproof.reproduce.study import MNIST, Study, points


def judge(lines: Mapping[str, Line], _: Sequence[Row]) -> tuple[Verdict, str]:
    """Clean accuracy not more than half a point below AT's, robust accuracy at most 6 points below
    and 2 above it, and fewer gradients per image than AT takes.
    """
    plain, ours = lines["AT"], lines["FAT, tau 0"]
    clean = ours.mean("clean") - plain.mean("clean")
    robust = ours.mean("robust") - plain.mean("robust")
    spent = ours.mean("backward") / plain.mean("backward")
    text = (
        f"FAT with tau 0 against AT: clean {points(clean)}, robust {points(robust)}, "
        f"{100 * spent:.0f} % of its attack's gradients"
    )
    if clean < -0.02 and robust < -0.1:
        return "contradicts", text
    shows = clean >= -0.005 and -0.06 <= robust <= 0.02 and spent < 1
    return ("shows" if shows else "does not show at this scale"), text


def _fat(inner: str, tau: object) -> str:
    return f"FAT({inner}, tau={tau})"


AT, TRADES = "AT(steps=7, ramp=0.2)", "TRADES(beta=3, steps=7, length=0.25, ramp=0.2)"
MART = "MART(lam=3, steps=7, length=0.25, ramp=0.2)"
fat_study = Study(
    name="fat",
    paper="Zhang et al. 2020, arXiv 2002.11242",
    claim="training on friendly adversarial images keeps clean accuracy and needs fewer gradients, "
    "at some cost in robust accuracy at the same eps",
    rows={
        "AT": {"method": AT, "paper": "cifar10-at"},
        "FAT, tau 0": {"method": _fat(AT, 0), "paper": "cifar10-fat"},
        "FAT, tau 1": {"method": _fat(AT, 1)},
        "FAT, tau 3": {"method": _fat(AT, 3)},
        "TRADES": {
            "method": TRADES,
            "paper": {"recipe": "cifar10-fat-trades", "method": "TRADES(beta=6)"},
        },
        "FAT for TRADES, tau 1": {"method": _fat(TRADES, 1), "paper": "cifar10-fat-trades"},
        "MART": {"method": MART},
        "FAT for MART, tau 1": {"method": _fat(MART, 1), "paper": "cifar10-fat-mart"},
    },
    judge=judge,
    base={**MNIST, "n": 4000},
    published={"FAT for TRADES, tau 1": (0.5351, "AutoAttack, WRN-34-10, CIFAR-10, RobustBench")},
)
