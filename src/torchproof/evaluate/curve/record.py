"""The record of a robustness curve: curve.json (schema torchproof.curve/1)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

from torchproof.core.metrics import clopper_pearson
from torchproof.core.norms import name_of
from torchproof.evaluate.curve.checks import Check
from torchproof.evaluate.curve.distances import NEAREST, DistanceRow, rows_of, write_rows
from torchproof.evaluate.curve.flags import curve_flags
from torchproof.evaluate.curve.plan import CurvePlan
from torchproof.evaluate.flags.flag import SEVERE
from torchproof.evaluate.ledger import Ledger
from torchproof.evaluate.member import CLEAN
from torchproof.evaluate.record import FlagRecord
from torchproof.evaluate.stored import Stored

SCHEMA, RESULT = "torchproof.curve/1", "curve.json"


class CurvePoints(BaseModel):
    """Accuracy at each eps, a step function: it holds from its eps (inclusive) to the next.

    low, high: pointwise 95 % intervals of Clopper and Pearson, each for its eps alone.
    """

    eps: list[float]
    accuracy: list[float]
    low: list[float]
    high: list[float]

    @classmethod
    def of(cls, distances: Sequence[float], max_eps: float) -> CurvePoints:
        """From the distances of all n examples; an image at distance d falls at eps = d."""
        n, ordered = len(distances), sorted(distances)
        at = sorted({0.0, max_eps, *(d for d in distances if d <= max_eps)})
        left, fallen = [], 0
        for eps in at:
            while fallen < n and ordered[fallen] <= eps:
                fallen += 1
            left.append(n - fallen)
        bands = {hits: clopper_pearson(hits, n) for hits in set(left)}
        return cls(
            eps=at,
            accuracy=[hits / n for hits in left],
            low=[bands[hits][0] for hits in left],
            high=[bands[hits][1] for hits in left],
        )


class CheckRecord(BaseModel):
    """One fixed-budget evaluation of all examples at eps.

    accuracy: what it left alone; curve: what the minimum-norm attack left at this eps; worst_case:
    what all attacks together left; lowered: ids of examples that it broke although they had been
    placed beyond eps; missed: how many it left although an image within eps is known; verdict and
    flags: of that evaluation.
    """

    eps: float
    suite: str
    accuracy: float
    accuracy_ci95: tuple[float, float]
    curve: float
    worst_case: float
    lowered: list[int]
    missed: int
    forward: int
    backward: int
    seconds: float
    verdict: str
    flags: list[str]


class CurveRecord(Stored):
    """The content of curve.json.

    curve: after the checks; uncorrected: of the minimum-norm attack alone; median_distance: over
    the correctly classified examples, null where it is beyond what was found; forward, backward,
    seconds: of the minimum-norm attack; unconfirmed: images that did not hold when they were asked
    about again; undefined: examples at which that attack met a gradient that was NaN or infinite.
    """

    file: ClassVar[str] = RESULT
    remedy: ClassVar[str] = "run `torchproof curve` into this folder first"
    model_config = ConfigDict(extra="forbid")

    schema_: str = Field(default=SCHEMA, alias="schema")
    norm: str
    attack: str
    seed: int
    device: str
    dtype: str
    clean_accuracy: float
    median_distance: float | None
    max_eps: float
    band: str = "pointwise 95 % intervals of Clopper and Pearson"
    curve: CurvePoints
    uncorrected: CurvePoints
    checks: list[CheckRecord]
    forward: int
    backward: int
    seconds: float
    unfinished: int
    not_found: int
    unconfirmed: int
    undefined: int = 0
    flags: list[FlagRecord]
    verdict: str
    versions: dict[str, str]
    command: str


@dataclass(frozen=True)
class RobustnessCurve:
    """Accuracy against eps: the record, and one row per example."""

    record: CurveRecord
    rows: tuple[DistanceRow, ...]

    def accuracy(self, eps: float) -> float:
        """The share of examples that nothing broke within eps."""
        return self._standing(eps) / len(self.rows)

    def ci95(self, eps: float) -> tuple[float, float]:
        """Its interval by Clopper and Pearson, for this eps alone."""
        return clopper_pearson(self._standing(eps), len(self.rows))

    def _standing(self, eps: float) -> int:
        return sum(row.nearest > eps for row in self.rows)

    def save(self, folder: Path) -> None:
        """Writes distances.csv, then curve.json; raises FileError."""
        write_rows(folder, self.rows)
        self.record.save(folder)


def summarise(
    ledger: Ledger, plan: CurvePlan, checks: Sequence[Check], missing: Sequence[float]
) -> RobustnessCurve:
    """Record and rows after the checks; `missing`: eps that were not checked for lack of time."""
    header = ledger.header
    rows = nearer = rows_of(header, ledger, plan.name)
    for check in checks:
        nearer = check.nearer(nearer)
    found = [row.nearest for row in nearer]
    far = max((d for d in found if math.isfinite(d)), default=0.0)
    max_eps = far if plan.max_eps is None else plan.max_eps
    clean, records = (
        [ledger.of(i)[name] for i in header.ids if name in ledger.of(i)]
        for name in (CLEAN, NEAREST)
    )
    flags = curve_flags(rows, nearer, checks, missing, clean, records)
    spent = {key: sum(r[key] for r in records) for key in ("forward", "backward", "seconds")}
    copied = ("model_sha256", "data_sha256", "attack", "seed", "device", "dtype", "versions")
    record = CurveRecord(
        n=len(rows), norm=name_of(plan.norm), max_eps=max_eps,
        clean_accuracy=sum(row.distance > 0 for row in rows) / len(rows),
        median_distance=_median(nearer),
        curve=CurvePoints.of(found, max_eps),
        uncorrected=CurvePoints.of([row.distance for row in rows], max_eps),
        checks=[_checked(check, rows, nearer) for check in checks], **spent,
        unfinished=sum(not row.finished for row in rows),
        not_found=sum(row.finished and math.isinf(row.nearest) for row in nearer),
        unconfirmed=sum(record["unconfirmed"] for record in records),
        undefined=sum("undefined" in record for record in records),
        flags=[FlagRecord(**vars(flag)) for flag in flags],
        verdict="unreliable" if any(flag.severity == SEVERE for flag in flags) else "ok",
        **{key: header.settings[key] for key in copied},
        **{key: header.about[key] for key in ("date", "model", "data", "command")},
    )  # fmt: skip
    return RobustnessCurve(record, nearer)


def _checked(
    check: Check, rows: Sequence[DistanceRow], nearer: Sequence[DistanceRow]
) -> CheckRecord:
    result = check.report.result
    return CheckRecord(
        eps=check.eps,
        suite=result.suite,
        accuracy=result.robust_accuracy,
        accuracy_ci95=result.robust_accuracy_ci95,
        curve=sum(row.distance > check.eps for row in rows) / len(rows),
        worst_case=sum(row.nearest > check.eps for row in nearer) / len(rows),
        lowered=[row.id for row in check.lowered(rows)],
        missed=check.missed(rows),
        forward=result.forward,
        backward=result.backward,
        seconds=result.seconds,
        verdict=result.verdict,
        flags=[flag.name for flag in result.flags],
    )


def _median(rows: Sequence[DistanceRow]) -> float | None:
    """The lower median of `nearest` over the correctly classified examples; None where it is inf
    or there are none.
    """
    found = sorted(row.nearest for row in rows if row.nearest > 0)
    middle = found[(len(found) - 1) // 2] if found else math.inf
    return middle if math.isfinite(middle) else None
