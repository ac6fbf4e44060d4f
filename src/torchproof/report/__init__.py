"""Reports: stored evaluations as one self-contained HTML page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torchproof.report.evaluation import Evaluation
from torchproof.report.training import Training

if TYPE_CHECKING:
    from torchproof.report.page import render

__all__ = ["Evaluation", "Training", "render"]


def __getattr__(name: str) -> Any:
    """`render` brings matplotlib with it: imported when it is asked for."""
    if name != "render":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from torchproof.report.page import render

    return render
