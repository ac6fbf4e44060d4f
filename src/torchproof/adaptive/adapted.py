"""What `adapt` found: flags, the suspect, the steps of the hunt, and every example's worst case."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from torchproof.adaptive.attribution import Component
from torchproof.adaptive.binarization import Binarization
from torchproof.adaptive.declaration import Declaration
from torchproof.adaptive.hunt import Step
from torchproof.core.files import write
from torchproof.evaluate.flags import Flag

SCHEMA = "torchproof.adaptation/1"
FILE = "adaptation.json"
CAVEAT = (
    "A debugger, not a certificate: what it breaks is broken, what it leaves standing may fall to "
    "an attack that it does not know. No single strategy broke all defences that were ever "
    "published (Tramer et al. 2020)."
)


@dataclass(frozen=True)
class Row:
    """One example. status: wrong (misclassified or rejected when clean), broken, standing;
    broken_by: the first trial that did it; score: the worst that was found, above 0 where a single
    answer is wrong and accepted.
    """

    id: int
    label: int
    status: str
    broken_by: str
    score: float


@dataclass(frozen=True)
class Adapted:
    """clean: accuracy, accepted answers alone where the model may reject; naive: share left by the
    naive attack; robust: share left by everything; active, active_after: the binarization test of
    the naive attack and of the best one, None where it does not apply; components: the parts, the
    likeliest culprit first; suspect: its name, None where nothing points at one; best: the name of
    the best choice; spent: samples of all trials, without what was measured besides; x: the worst
    images (N, C, H, W), clean ones where none was found.
    """

    clean: float
    naive: float
    robust: float
    flags: tuple[Flag, ...]
    declaration: Declaration
    active: Binarization | None
    active_after: Binarization | None
    components: tuple[Component, ...]
    suspect: str | None
    best: str
    steps: tuple[Step, ...]
    rows: tuple[Row, ...]
    spent: int
    budget: int
    x: Tensor = field(repr=False, compare=False)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the flags."""
        return tuple(flag.name for flag in self.flags)

    @property
    def reading(self) -> str:
        """What to think of it, in a sentence or two."""
        said = f"{self.naive:.1%} by the naive attack, {self.robust:.1%} by all trials"
        if not self.flags:
            return f"Robust accuracy {said}; nothing suspicious was found."
        names = ", ".join(self.names)
        about = f"; what misleads is most likely {self.suspect}" if self.suspect else ""
        return f"Robust accuracy {said}. Suspicious: {names}{about}."

    def record(self, **about: Any) -> dict[str, Any]:
        """The content of adaptation.json; about: model, data, threat, command, ..."""
        tests = {
            name: None if test is None else {
                **asdict(test), "asr": test.asr, "asr_ci95": test.asr_ci95,
                "random_asr": test.random_asr, "passes": test.passes,
                "informative": test.informative,
            }
            for name, test in (("active", self.active), ("active_after", self.active_after))
        }  # fmt: skip
        plain = ("clean", "naive", "robust", "suspect", "best", "spent", "budget", "reading")
        return {
            "schema": SCHEMA,
            "caveat": CAVEAT,
            **about,
            **{name: getattr(self, name) for name in plain},
            "flags": [asdict(flag) for flag in self.flags],
            "declaration": asdict(self.declaration),
            **tests,
            "components": [asdict(component) for component in self.components],
            "steps": [asdict(step) for step in self.steps],
            "examples": [asdict(row) for row in self.rows],
        }

    def save(self, folder: Path, **about: Any) -> Path:
        """Writes adaptation.json into the folder, which is made; raises FileError."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / FILE
        text = json.dumps(self.record(**about), indent=1, allow_nan=False, default=str)
        write(path, (text + "\n").encode(), "give another folder")
        return path
