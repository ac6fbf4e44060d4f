"""Attacks at a fixed eps as a check of distances: what each broke, where it lowers the curve."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torchproof.evaluate.curve.distances import DistanceRow
from torchproof.evaluate.curve.plan import CurvePlan
from torchproof.evaluate.outcome import BROKEN, MISCLASSIFIED
from torchproof.evaluate.report import Report

_FALLEN = (0.25, 0.5, 0.75)  # of the correctly classified examples, at the eps chosen by default


def radii(rows: Sequence[DistanceRow], plan: CurvePlan) -> list[float]:
    """The eps to check, rising; none while a distance is missing."""
    if not all(row.finished for row in rows):
        return []
    if plan.check is not None:
        return sorted(set(plan.check))
    found = sorted(row.distance for row in rows if row.distance > 0)
    picked = [found[min(int(share * len(found)), len(found) - 1)] for share in _FALLEN if found]
    most = math.inf if plan.max_eps is None else plan.max_eps
    return sorted({_round(d, plan) for d in picked if d <= most and math.isfinite(d)})


def _round(distance: float, plan: CurvePlan) -> float:
    """Two digits, so that no example lies on the edge by choice; whole where the norm counts."""
    least = plan.norm.least
    return float(max(least, round(distance))) if least else float(f"{distance:.2g}")


@dataclass(frozen=True)
class Check:
    """A fixed-budget evaluation of the same examples at eps."""

    eps: float
    report: Report

    @property
    def name(self) -> str:
        return f"{self.report.suite} at {self.eps:.6g}"

    @property
    def fallen(self) -> list[bool]:
        """Per example: was it broken, or misclassified to begin with?"""
        return [row.status in (BROKEN, MISCLASSIFIED) for row in self.report.examples]

    def lowered(self, rows: Sequence[DistanceRow]) -> list[DistanceRow]:
        """The examples that this check breaks although they were placed beyond its eps."""
        pairs = zip(rows, self.fallen, strict=True)
        return [row for row, fell in pairs if fell and row.distance > self.eps]

    def missed(self, rows: Sequence[DistanceRow]) -> int:
        """How many examples it left standing although an image within eps is known."""
        pairs = zip(rows, self.fallen, strict=True)
        return sum(row.distance <= self.eps and not fell for row, fell in pairs)

    def nearer(self, rows: Sequence[DistanceRow]) -> tuple[DistanceRow, ...]:
        """The rows, `nearest` at most eps where this check broke them."""
        return tuple(
            replace(row, nearest=self.eps, found_by=self.name)
            if fell and self.eps < row.nearest
            else row
            for row, fell in zip(rows, self.fallen, strict=True)
        )
