"""Queries: what each example cost until it was broken, and success against their number."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torchproof.attack.cases import Found
from torchproof.core.errors import InputError
from torchproof.core.files import write, writing
from torchproof.core.metrics import clopper_pearson
from torchproof.evaluate.outcome import BROKEN, MISCLASSIFIED, UNFINISHED
from torchproof.evaluate.report import Report

SCHEMA = "torchproof.queries/1"


@dataclass(frozen=True)
class Spent:
    """One example: forward and backward samples until it was broken, or given up as unbroken."""

    id: int
    broken: bool
    forward: int
    backward: int

    @property
    def queries(self) -> int:
        return self.forward + self.backward


@dataclass(frozen=True)
class QueryLedger:
    """What an attack spent on each example that was classified correctly and is finished;
    `unfinished` counts those whose run was stopped.
    """

    name: str
    rows: tuple[Spent, ...]
    unfinished: int = 0


def query_ledger(
    source: Found | Report | Path | str, name: str = "attack", ids: Tensor | None = None
) -> QueryLedger:
    """The ledger of an attack's Found, of an evaluation's Report, or of the folder it was saved in.

    Found knows nothing of the clean images: give it examples that were classified correctly (a run
    with patience 0, so that the first win ends it). An evaluation's queries are those of the clean
    pass and of all its attacks together. Raises InputError and FileError.
    """
    if isinstance(source, Found):
        return _of_found(source, name, ids)
    report = source if isinstance(source, Report) else Report.load(source)
    rows = [row for row in report.examples if row.status != MISCLASSIFIED]
    done = [
        Spent(row.id, row.status == BROKEN, row.forward, row.backward)
        for row in rows
        if row.status != UNFINISHED
    ]
    return QueryLedger(name, tuple(done), len(rows) - len(done))


def _of_found(found: Found, name: str, ids: Tensor | None) -> QueryLedger:
    total = len(found.lost)
    if ids is not None and len(ids) != total:
        given, expected = f"{len(ids)} ids for {total} examples", "one id per example"
        raise InputError(given, expected, "pass the ids that the run was given")
    numbers = range(total) if ids is None else ids.tolist()
    columns = zip(numbers, found.lost.tolist(), found.spent.tolist(), strict=True)
    rows = [Spent(i, lost, forward, back) for i, lost, (forward, back) in columns]
    finished = (found.done | found.lost).tolist()
    done = tuple(row for row, over in zip(rows, finished, strict=True) if over)
    return QueryLedger(name, done, total - len(done))


@dataclass(frozen=True)
class QueryCurve:
    """The share of n examples that was broken within so many queries, a step function.

    queries: what each broken example cost, rising; limit: the most that any example cost, beyond
    which nothing is known.
    """

    name: str
    queries: tuple[int, ...]
    n: int
    limit: int

    def success(self, queries: int) -> float:
        """The share broken within so many queries."""
        return self._broken(queries) / self.n

    def ci95(self, queries: int) -> tuple[float, float]:
        """Its interval by Clopper and Pearson."""
        return clopper_pearson(self._broken(queries), self.n)

    def _broken(self, queries: int) -> int:
        return int(torch.searchsorted(torch.tensor(self.queries), queries, right=True))

    @property
    def median(self) -> float | None:
        """Queries of the median broken example; None where none was broken."""
        return statistics.median(self.queries) if self.queries else None

    @property
    def mean(self) -> float:
        """Queries per example, an unbroken one counted with `limit`: two attacks compare by it."""
        return (sum(self.queries) + self.limit * (self.n - len(self.queries))) / self.n

    def points(self) -> list[tuple[int, float, float, float]]:
        """(queries, share, low, high) wherever the share rises, from 0 queries to the limit."""
        at = sorted({0, *self.queries, self.limit})
        return [(q, self.success(q), *self.ci95(q)) for q in at]


def query_curve(
    source: QueryLedger | Found | Report | Path | str, name: str = "attack"
) -> QueryCurve:
    """Success against queries; raises InputError where no example is finished."""
    ledger = source if isinstance(source, QueryLedger) else query_ledger(source, name)
    if not ledger.rows:
        raise InputError(
            f"a ledger of {ledger.unfinished} examples, none of them finished",
            "at least one finished example",
            "let the attack run to its end",
        )
    broken = sorted(row.queries for row in ledger.rows if row.broken)
    limit = max(row.queries for row in ledger.rows)
    return QueryCurve(ledger.name, tuple(broken), len(ledger.rows), limit)


def to_json(ledgers: Iterable[QueryLedger]) -> dict[str, Any]:
    """Curves and ledgers as one JSON object (schema torchproof.queries/1)."""
    return {"schema": SCHEMA, "attacks": [_entry(ledger) for ledger in ledgers]}


def _entry(ledger: QueryLedger) -> dict[str, Any]:
    curve = query_curve(ledger)
    names = ("queries", "success", "low", "high")
    return {
        "name": curve.name,
        "n": curve.n,
        "broken": len(curve.queries),
        "unfinished": ledger.unfinished,
        "limit": curve.limit,
        "median_queries_of_broken": curve.median,
        "mean_queries": curve.mean,
        "curve": [dict(zip(names, point, strict=True)) for point in curve.points()],
        "examples": [asdict(row) for row in ledger.rows],
    }


def save_queries(path: Path | str, *ledgers: QueryLedger) -> None:
    """Writes the JSON file whole or not at all; raises FileError."""
    path = Path(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write(path, json.dumps(to_json(ledgers), indent=2).encode() + b"\n")
