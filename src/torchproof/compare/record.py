"""`comparison.json` (schema torchproof.comparison/1), for other tools to read."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from torchproof.core.files import write, writing

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


class Comparison(BaseModel):
    """The content of comparison.json; accuracies are fractions of all n examples.

    standing: per library the ids it did not break, of the correctly classified ones; union: what is
    left when every library has had its turn.
    """

    model_config = ConfigDict(protected_namespaces=(), serialize_by_alias=True)

    schema_: str = Field(default=SCHEMA, alias="schema")
    date: str
    model: str
    model_sha256: str | None
    data: str
    data_sha256: str
    n: int
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

    def save(self, folder: Path | str) -> Path:
        """Writes comparison.json, whole or not at all, and returns its path; raises FileError."""
        folder = Path(folder)
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        write(folder / FILE, self.model_dump_json(indent=2).encode() + b"\n")
        return folder / FILE
