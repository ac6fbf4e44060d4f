"""Lamb et al. 2022: mixing images in adversarial training keeps more of the clean accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torchproof.recipes.comparison import Line
from torchproof.reproduce.experiment import Row, Verdict
from torchproof.reproduce.study import MNIST, Study, points


def judge(lines: Mapping[str, Line], _: Sequence[Row]) -> tuple[Verdict, str]:
    """Clean error at most that of AT and half a point above that of 50/50 AT, PGD-20 accuracy at
    most 5 points below 50/50 AT's.
    """
    plain, half, ours = lines["AT"], lines["half AT"], lines["IAT"]
    clean, other = (ours.mean("clean") - line.mean("clean") for line in (plain, half))
    pgd, suite = (ours.mean(k) - half.mean(k) for k in ("pgd", "robust"))
    weak = ours.mean("pgd") - ours.mean("robust")
    text = (
        f"IAT: clean {points(clean)} against AT and {points(other)} against 50/50 AT; against the "
        f"latter PGD-20 {points(pgd)}, whole suite {points(suite)}; the suite finds "
        f"{100 * weak:.1f} points that PGD-20 on cross-entropy misses"
    )
    if clean < -0.02:
        return "contradicts", text
    shows = clean >= 0 and other >= -0.005 and pgd >= -0.05
    return ("shows" if shows else "does not show at this scale"), text


iat_study = Study(
    name="iat",
    paper="Lamb et al. 2022, arXiv 1906.06784",
    claim="interpolated adversarial training loses less clean accuracy than adversarial training "
    "and retains robustness",
    rows={
        "AT": {"method": "AT(steps=7, ramp=0.2)", "paper": "cifar10-at"},
        "half AT": {
            "method": "IAT(steps=7, ramp=0.2, alpha=0)",
            "paper": {"recipe": "cifar10-iat", "method": "IAT(steps=7, length=0.25, alpha=0)"},
        },
        "IAT": {"method": "IAT(steps=7, ramp=0.2)", "paper": "cifar10-iat"},
        "IAT, manifold": {
            "method": "IAT(steps=7, ramp=0.2, layers=('conv1', 'conv2'))",
            "paper": "cifar10-iat-manifold",
        },
        "Standard": {"method": "Standard", "paper": "cifar10-standard"},
    },
    judge=judge,
    base=MNIST,
    published={},
)
