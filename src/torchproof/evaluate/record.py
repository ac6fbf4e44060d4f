"""`result.json` (schema torchproof.evaluation/1) and `examples.csv`, for other tools to read."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, Field, model_serializer

from torchproof.core.errors import FileError
from torchproof.core.files import write
from torchproof.evaluate.ledger import RESULT
from torchproof.evaluate.outcome import Example
from torchproof.evaluate.stored import Stored

SCHEMA = "torchproof.evaluation/1"
EXAMPLES = "examples.csv"


class ThreatRecord(BaseModel):
    """norm and eps (input units); for several threats "union", null, and the list `union`."""

    norm: str
    eps: float | None
    eps_text: str
    union: list[ThreatRecord] = []

    @model_serializer
    def _plain(self) -> dict[str, Any]:
        single = {"norm": self.norm, "eps": self.eps, "eps_text": self.eps_text}
        return single | ({"union": [t._plain() for t in self.union]} if self.union else {})


class AttackRecord(BaseModel):
    """One attack: robust_accuracy is what it and those before it left, of all n examples."""

    name: str
    settings: str
    robust_accuracy: float
    broken: int
    forward: int
    backward: int
    seconds: float


class ProbesRecord(BaseModel):
    """What was asked for the red flags alone, and is not part of the attacks' budget: the number of
    examples asked after the attacks with the time that took, and forward and backward samples,
    also of the clean pass.
    """

    examples: int = 0
    forward: int = 0
    backward: int = 0
    seconds: float = 0.0


class StandingRecord(BaseModel):
    """How many examples a verifier proved (and no attack broke), an attack broke (and no verifier
    had proved), neither decided, and both: contradicted, which cannot be right. With those that are
    misclassified, and unfinished where not even the clean image was asked about, they are all n.
    """

    certified: int
    broken: int
    undecided: int
    contradicted: int
    misclassified: int
    unfinished: int


class FlagRecord(BaseModel):
    """A reason not to believe the numbers; severity is severe, warning or note."""

    name: str
    severity: str
    evidence: str
    remedy: str = ""


class Result(Stored):
    """The content of result.json.

    Accuracies are fractions of all n examples; forward and backward count samples, those of the
    clean pass included; per_robust_example: their sum over a robust example, on average, null where
    there is none. robust_accuracy: correctly classified and broken by no attack that was run;
    the true robust accuracy lies between certified_accuracy and that, where a verifier was asked,
    and standing counts the examples behind both: null in any other evaluation;
    target: what a targeted evaluation aims at, null in any other: only an example that is moved
    there is broken, and n counts the examples of other classes; rejection_rate: of a model that may
    reject, the share of clean images that it does reject (they count as not correct), null for any
    other;
    seconds: time spent on what is recorded, without what an interruption lost.
    """

    file: ClassVar[str] = RESULT
    remedy: ClassVar[str] = "evaluate into this folder first"

    schema_: str = Field(default=SCHEMA, alias="schema")
    threat: ThreatRecord
    suite: str
    seed: int
    device: str
    dtype: str
    quantised: bool
    target: str | None = None
    clean_accuracy: float
    robust_accuracy: float
    robust_accuracy_ci95: tuple[float, float]
    certified_accuracy: float | None = None
    standing: StandingRecord | None = None
    rejection_rate: float | None = None
    attacks: list[AttackRecord]
    forward: int
    backward: int
    per_robust_example: float | None = None
    seconds: float
    probes: ProbesRecord = ProbesRecord()
    examples: str = EXAMPLES
    flags: list[FlagRecord]
    labels: list[str]
    verdict: str
    versions: dict[str, str]
    command: str


def write_examples(folder: Path, rows: Sequence[Example]) -> None:
    """Writes examples.csv, one row per example; raises FileError."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [f.name for f in fields(Example)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    write(folder / EXAMPLES, text.getvalue().encode())


def read_examples(folder: Path) -> tuple[Example, ...]:
    """The rows of examples.csv; raises FileError naming the line that cannot be read."""
    path = folder / EXAMPLES
    kinds = {f.name: f.type for f in fields(Example)}
    rows = []
    try:
        with path.open(newline="", encoding="utf-8") as lines:
            for row in csv.DictReader(lines):
                rows.append(Example(**{k: _value(str(kinds[k]), v) for k, v in row.items()}))
    except (OSError, KeyError, TypeError, ValueError) as error:
        given = f"{path}, line {len(rows) + 2} ({error})"
        raise FileError(given, "a table written by an evaluation", "evaluate again") from error
    return tuple(rows)


def _value(kind: str, text: str) -> Any:
    kinds: dict[str, Callable[[str], Any]] = {"int": int, "str": str, "bool": "True".__eq__}
    return kinds[kind](text)
