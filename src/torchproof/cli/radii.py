"""Accuracy against eps: the suite `quick` at some radii beside the one of an evaluation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from torchproof.attack.regional import Regions
from torchproof.cli.show import progress_bar
from torchproof.core.threats import Threat
from torchproof.evaluate import evaluate as measure
from torchproof.evaluate.suites import bounded
from torchproof.report.evaluation import CURVE

FACTORS = (0.25, 0.5, 0.75, 1.5, 2.0)


def radii(threat: Threat | Regions) -> dict[str, Threat | Regions]:
    """The threat at FACTORS of its eps, by the name of a folder; whole numbers where the norm
    counts, and each once.
    """
    ball = bounded(threat)
    wanted = [ball.eps * factor for factor in FACTORS]
    if ball.norm.least:
        wanted = [max(ball.norm.least, round(eps)) for eps in wanted]
    others = [replace(ball, eps=eps) for eps in sorted(set(wanted) - {ball.eps})]
    if isinstance(threat, Regions):
        return {f"{other.eps:.6g}": replace(threat, threat=other) for other in others}
    return {f"{other.eps:.6g}": other for other in others}


def measure_curve(model: Any, data: Any, threat: Threat | Regions, out: Path, **more: Any) -> None:
    """Evaluations with the suite `quick` in folders of out/curve, where the report finds them."""
    for name, other in radii(threat).items():
        with progress_bar() as show:
            folder = out / CURVE / name
            measure(
                model, data, other, "quick", out=folder, progress=show, save_adversarial=False,
                **more,
            )  # fmt: skip
