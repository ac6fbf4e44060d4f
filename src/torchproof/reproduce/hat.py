"""Rade and Moosavi-Dezfooli 2022: helper images give back clean accuracy that TRADES costs; MMA
(Ding et al. 2020), the other method about how far away the boundary is, beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from torchproof.recipes import recipe
from torchproof.recipes.comparison import Line
from torchproof.reproduce.ahead import alone
from torchproof.reproduce.experiment import Outcome, Request, Row, Verdict
from torchproof.reproduce.study import MNIST, Study, points
from torchproof.reproduce.subjects import seeded, trained

_PGD = "steps=7, length=0.25, ramp=0.2, beta=2.5"


def judge(lines: Mapping[str, Line], _: Sequence[Row]) -> tuple[Verdict, str]:
    """Shows: HAT has half a point more clean accuracy than TRADES with the same beta, and robust
    accuracy at most a point below. Contradicts: both are two points lower. MMA is reported.
    """
    plain = lines["TRADES"]
    clean, robust = (
        {name: lines[name].mean(what) - plain.mean(what) for name in ("HAT", "MMA")}
        for what in ("clean", "robust")
    )
    text = "; ".join(
        f"{name} against TRADES: clean {points(clean[name])}, robust {points(robust[name])}"
        for name in clean
    )
    if clean["HAT"] < -0.02 and robust["HAT"] < -0.02:
        return "contradicts", text
    shows = clean["HAT"] >= 0.005 and robust["HAT"] >= -0.01
    return ("shows" if shows else "does not show at this scale"), text


STUDY = Study(
    name="hat",
    paper="Rade and Moosavi-Dezfooli 2022; Ding et al. 2020, arXiv 1812.02637",
    claim="images beyond the adversarial one, with the answers of a network trained without an "
    "attack, give back clean accuracy at the same robust accuracy",
    rows={
        "TRADES": {
            "method": f"TRADES({_PGD})",
            "paper": {"recipe": "cifar10-hat", "method": "TRADES(beta=2.5)", "teacher": None},
        },
        "HAT": {"method": f"HAT({_PGD}, gamma=0.5, helper=2)", "paper": {"recipe": "cifar10-hat"}},
        "MMA": {"method": "MMA(steps=7, most=1.5, least=0.33)", "paper": "cifar10-mma"},
    },
    judge=judge,
    base=MNIST,
    published={
        "HAT": (0.5709, "AutoAttack, PreActResNet-18 with 1M generated images, RobustBench"),
        "MMA": (0.4144, "AutoAttack, WRN-28-4, CIFAR-10, RobustBench"),
    },
)  # fmt: skip


def hat_experiment(request: Request) -> Outcome:
    """HAT beside TRADES, and MMA: clean and robust accuracy (Rade and Moosavi-Dezfooli 2022)."""
    folder = request.out / "standard"
    plain = replace(STUDY, rows={"TRADES": STUDY.rows["TRADES"]})
    plan = plain.table(request).rows["TRADES"].model_copy(update={"method": "Standard"})
    if request.scale == "paper":
        plan = recipe("cifar10-standard")
    study = with_teacher(folder)
    request.claim({"table": study.table(request).model_dump_json()})
    with alone(request, "standard"):
        trained(request, seeded(request, plan, 0), folder)
    return study.run(request)


def with_teacher(folder: Path) -> Study:
    """The study, its helper labels from the network in `folder`."""
    rows = {name: dict(row) for name, row in STUDY.rows.items()}
    rows["HAT"]["teacher"] = str(folder)
    rows["HAT"]["paper"] = {"recipe": "cifar10-hat", "teacher": str(folder)}
    return replace(STUDY, rows=rows)
