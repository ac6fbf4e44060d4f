"""One stored evaluation, read back: result.json, examples.csv and, where saved, adversarial.npz."""

from __future__ import annotations

import zipfile
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchproof.core.errors import FileError
from torchproof.evaluate.outcome import (
    BROKEN,
    CERTIFIED,
    CONTRADICTED,
    MISCLASSIFIED,
    UNDECIDED,
    UNFINISHED,
    Example,
)
from torchproof.evaluate.record import EXAMPLES, Result, ThreatRecord, read_examples
from torchproof.evaluate.stream_merge import is_stream
from torchproof.evaluate.tally import Rows, StreamResult
from torchproof.report import numbers
from torchproof.report.numbers import Share

ADVERSARIAL = "adversarial.npz"
CURVE = "curve"  # the folder of evaluations of the same model and data at other radii

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]


def broken(example: Example) -> bool:
    """Was it broken by an attack?"""
    return example.status == BROKEN


def held(example: Example) -> bool:
    """Correct, and not broken by any attack that was run: what robust accuracy counts."""
    return example.clean and example.status != BROKEN


@dataclass(frozen=True)
class Images:
    """Clean and adversarial images (N, C, H, W) of the examples `id` (N,), values in [0, 1]."""

    x: Floats
    x_adv: Floats
    id: Ints

    def rows(self) -> dict[int, int]:
        """Example id -> row."""
        return {int(number): row for row, number in enumerate(self.id)}


@dataclass(frozen=True)
class Evaluation:
    """A result with what was stored beside it; None where that was not saved.

    examples: of an evaluation by chunks they are read anew whenever they are gone through.
    """

    result: Result
    examples: Collection[Example] | None
    images: Images | None
    curve: tuple[Result, ...] = ()

    @classmethod
    def read(cls, folder: Path) -> Evaluation:
        """Reads a directory with result.json; what lies beside it is optional.

        Raises FileError where result.json is missing, damaged, of another schema or states what
        cannot be, and where a file beside it is damaged.
        """
        result = _result(folder)
        shares = (result.clean_accuracy, result.robust_accuracy, *result.robust_accuracy_ci95)
        if result.n < 1 or not all(0 <= share <= 1 for share in shares):
            given = f"{folder}: accuracies {shares} of n = {result.n}"
            raise FileError(given, "fractions in [0, 1] of n > 0 examples", "evaluate again")
        pictures = folder / ADVERSARIAL
        return cls(
            result,
            _examples(folder, result.n),
            _images(pictures) if pictures.is_file() else None,
            _curve(folder, result),
        )

    @property
    def n(self) -> int:
        """How many examples."""
        return self.result.n

    @property
    def clean(self) -> Share:
        """The clean accuracy with its interval."""
        return Share.measured(self.result.clean_accuracy, self.n)

    @property
    def robust(self) -> Share:
        """The robust accuracy with the interval that result.json states."""
        return Share(self.result.robust_accuracy, *self.result.robust_accuracy_ci95, self.n)

    @property
    def certified(self) -> Share | None:
        """The certified accuracy with its interval; None where no verifier was asked."""
        value = self.result.certified_accuracy
        return None if value is None else Share.measured(value, self.n)

    @property
    def standing(self) -> list[Part]:
        """What a verifier and the attacks say together; empty where no verifier was asked."""
        counts = self.result.standing
        return [] if counts is None else [p.counted(getattr(counts, p.name)) for p in STANDING]

    @property
    def threats(self) -> list[ThreatRecord]:
        """One threat, or those whose per-example union this is."""
        return self.result.threat.union or [self.result.threat]

    @property
    def threat(self) -> str:
        """The threat, or the union, in words."""
        return numbers.threat(self.threats)

    @property
    def conditions(self) -> str:
        """What every accuracy of this evaluation must be read with."""
        aim = "" if self.result.target is None else f", targeted at {self.result.target}"
        return f"{self.threat}{aim}, suite {self.result.suite}, n = {numbers.count(self.n)}"

    @property
    def points(self) -> list[Radius]:
        """The robust accuracies that were measured, by radius."""
        found = [Radius(self.result, self.robust)]
        for other in self.curve:
            share = Share(other.robust_accuracy, *other.robust_accuracy_ci95, other.n)
            found.append(Radius(other, share))
        return sorted(found, key=lambda point: point.eps)

    @property
    def reliable(self) -> bool:
        """Did no severe flag make its verdict unreliable?"""
        return self.result.verdict == "ok"


@dataclass(frozen=True)
class Part:
    """How many examples have one standing, what that means, and whether the page shows none of
    them (always) or any of them as an alarm.
    """

    name: str
    means: str
    always: bool = False
    alarm: bool = False
    hits: int = 0

    def counted(self, hits: int) -> Part:
        """The same with its number of examples."""
        return replace(self, hits=hits)


STANDING = (
    Part(CERTIFIED, "proved: no input of the threat changes the answer", always=True),
    Part(UNDECIDED, "neither proved nor broken", always=True),
    Part(BROKEN, "an attack changed the answer", always=True),
    Part(CONTRADICTED, "proved and broken, which cannot be", alarm=True),
    Part(MISCLASSIFIED, "wrong without any attack"),
    Part(UNFINISHED, "not looked at yet"),
)


@dataclass(frozen=True)
class Radius:
    """A robust accuracy at one radius."""

    result: Result
    share: Share

    @property
    def eps(self) -> float:
        """In input units."""
        return self.result.threat.eps or 0.0

    @property
    def tick(self) -> str:
        """As it was written, such as 8/255."""
        return self.result.threat.eps_text or numbers.plain(self.eps)

    @property
    def threat(self) -> str:
        """The threat at this radius, in words."""
        return numbers.threat([self.result.threat])


def _result(folder: Path) -> Result:
    return StreamResult.read(folder) if is_stream(folder) else Result.read(folder)


def _examples(folder: Path, count: int) -> Collection[Example] | None:
    if is_stream(folder):
        return Rows(folder, count)
    return read_examples(folder) if (folder / EXAMPLES).is_file() else None


def _curve(folder: Path, result: Result) -> tuple[Result, ...]:
    """The evaluations at other radii beside one; raises FileError for those of another model."""
    found = []
    for path in sorted((folder / CURVE).glob("*/result.json")):
        other = _result(path.parent)
        for key in ("model_sha256", "data_sha256", "n", "quantised"):
            if getattr(other, key) != getattr(result, key):
                raise FileError(
                    f"{path.parent}, which differs in {key}",
                    "an evaluation of the same model and data",
                    f"remove {folder / CURVE}, or evaluate with --curve again",
                )
        found.append(other)
    return tuple(found)


def _images(path: Path) -> Images:
    """The arrays of adversarial.npz; object arrays, which would need pickle, are refused."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            x, x_adv = stored["x"], stored["x_adv"]
            ids = stored["id"] if "id" in stored else np.arange(len(x))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise FileError(f"{path}: {error}", "arrays x, x_adv and id", "evaluate again") from error
    if x.ndim != 4 or x.shape != x_adv.shape or len(ids) != len(x):
        shapes = f"x {x.shape}, x_adv {x_adv.shape}, id {ids.shape}"
        raise FileError(
            f"{path}: {shapes}", "images (N, C, H, W) twice, ids (N,)", "evaluate again"
        )
    return Images(x, x_adv, ids)
