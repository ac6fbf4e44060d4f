"""`comparison.json` (schema torchproof.comparison/1), for other tools to read."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, Field

from torchproof.evaluate.stored import Stored

SCHEMA = "torchproof.comparison/1"
FILE = "comparison.json"


class LibraryRecord(BaseModel):
    """One library. status: "ok", "not offered", "not loaded" or "failed", and then `reason` says
    why and all that follows is null.

    Counts are of correctly classified examples: broken by it; outside: returned points that are not
    allowed; missed: broken by another library but not by it, by reason.
    """

    name: str
    status: str
    reason: str = ""
    version: str | None = None
    settings: str | None = None
    robust_accuracy: float | None = None
    robust_accuracy_ci95: tuple[float, float] | None = None
    broken: int | None = None
    outside: int | None = None
    missed: dict[str, int] = {}
    forward: int | None = None
    backward: int | None = None
    seconds: float | None = None


class MissRecord(BaseModel):
    """Why a library did not break an example that another one broke.

    reason: a class of `differences.REASONS`; margin: at the point it returned (logits, above 0 is
    misclassified); best: the largest margin it was shown at an allowed point, null for none;
    length: of the perturbation it returned, input units; asked: its questions about the example.
    """

    reason: str
    margin: float | None
    best: float | None
    length: float
    asked: int


class DifferenceRecord(BaseModel):
    """An example on which libraries differ: who broke it, and why the others did not."""

    id: int
    label: int
    broken_by: list[str]
    missed_by: dict[str, MissRecord]


class Comparison(Stored):
    """The content of comparison.json; accuracies are fractions of all n examples.

    standing: per library the ids it did not break, of the correctly classified ones; union: what is
    left when every library has had its turn.
    """

    file: ClassVar[str] = FILE
    remedy: ClassVar[str] = "run `torchproof compare` into this folder first"

    schema_: str = Field(default=SCHEMA, alias="schema")
    norm: str
    eps: float
    eps_text: str
    attack: str
    matched: bool
    seed: int
    batch: int
    device: str
    clean_accuracy: float
    clean_accuracy_ci95: tuple[float, float]
    union_robust_accuracy: float
    libraries: list[LibraryRecord]
    differences: list[DifferenceRecord]
    standing: dict[str, list[int]]
    versions: dict[str, str]
    command: str
