"""Accuracy against eps: the suite `quick` at some radii beside the one of an evaluation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from torchproof.cli.show import progress_bar
from torchproof.core.threats import Threat
from torchproof.evaluate import evaluate as measure
from torchproof.report.evaluation import CURVE

FACTORS = (0.25, 0.5, 0.75, 1.5, 2.0)


def radii(threat: Threat) -> list[Threat]:
    """The threat at FACTORS of its eps; whole numbers where the norm counts, and each once."""
    wanted = [threat.eps * factor for factor in FACTORS]
    if threat.norm.least:
        wanted = [max(threat.norm.least, round(eps)) for eps in wanted]
    others = sorted(set(wanted) - {threat.eps})
    return [replace(threat, eps=eps) for eps in others]


def measure_curve(model: Any, data: Any, threat: Threat, out: Path, **more: Any) -> None:
    """Evaluations with the suite `quick` in folders of out/curve, where the report finds them."""
    for other in radii(threat):
        with progress_bar() as show:
            folder = out / CURVE / f"{other.eps:.6g}"
            measure(
                model, data, other, "quick", out=folder, progress=show, save_adversarial=False,
                **more,
            )  # fmt: skip
