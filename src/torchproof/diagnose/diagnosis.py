"""Several diagnostics of one network, one after the other, kept as they are done."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, TypeAdapter

from torchproof.attack.untouched import untouched
from torchproof.core.errors import InputError, TorchproofError, unknown
from torchproof.core.files import write
from torchproof.core.fingerprints import model_sha256
from torchproof.core.notes import Notes
from torchproof.diagnose.parts import PARTS, USUAL
from torchproof.diagnose.subject import Images, Subject

SCHEMA = "torchproof.diagnosis/1"
NOTES = "torchproof.diagnosis-notes/1"
FILE = "diagnosis.json"


class Measured(BaseModel):
    """One diagnostic. reading: what it found, in a sentence; found: every number of it."""

    title: str
    reading: str
    seconds: float
    found: dict[str, Any]

    def result(self, name: str) -> Any:
        """The dataclass that `found` was written from."""
        return TypeAdapter(PARTS[name].kind).validate_python(self.found)


class Diagnosis(BaseModel):
    """What is stored (diagnosis.json). n, n_train: images of either part; refused: name -> why a
    diagnostic does not apply; notes: what holds for all of them.
    """

    model_config = ConfigDict(ser_json_inf_nan="constants")

    schema_version: str = SCHEMA
    about: dict[str, Any]
    model_sha256: str
    n: int
    n_train: int
    seed: int
    clean_accuracy: float
    train_accuracy: float
    notes: tuple[str, ...]
    parts: dict[str, Measured]
    refused: dict[str, str]
    seconds: float

    @classmethod
    def read(cls, path: Path) -> Diagnosis:
        """The stored one of a folder or file."""
        return cls.model_validate_json((path / FILE if path.is_dir() else path).read_text())

    def write(self, out: Path) -> None:
        """out/diagnosis.json, whole or not at all; raises FileError."""
        write(out / FILE, (self.model_dump_json(indent=1) + "\n").encode())


def diagnose(
    subject: Subject,
    names: Sequence[str] = USUAL,
    *,
    about: Mapping[str, Any] | None = None,
    out: Path | None = None,
    resume: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> Diagnosis:
    """The diagnostics of these names; the model stays as it is.

    A diagnostic that does not apply to the network or the images is refused with its reason, and
    the others go on. about: what else the record is to say (names, versions, the command); out: a
    folder in which a killed run goes on with resume. Raises UnknownName for a diagnostic,
    InputError without any and for labels that the network does not have, FileError, ResumeError.
    """
    for name in names:
        if name not in PARTS:
            raise unknown("diagnostic", name, PARTS)
    if not names:
        raise InputError("no diagnostic", "at least one", f"name any of {', '.join(PARTS)}")
    started, own = time.monotonic(), model_sha256(subject.model)
    clean, _ = _accuracy(subject, subject.sets.test)
    train, classes = _accuracy(subject, subject.sets.train)
    settings = {"model": own, **subject.settings()}
    notes = Notes.open(NOTES, lambda record: str(record["name"]), settings, out, resume)
    try:
        for name in names:
            if name not in notes.records:
                say(f"{name}: {PARTS[name].title}")
                notes.add(_record(name, subject))
    finally:
        notes.close()
    done = {name: notes.records[name] for name in names}
    made = Diagnosis(
        about=dict(about or {}), model_sha256=own, n=len(subject.sets.test.y),
        n_train=len(subject.sets.train.y), seed=subject.seed,
        clean_accuracy=clean, train_accuracy=train, notes=_warnings(train, classes),
        parts={n: Measured(**r["measured"]) for n, r in done.items() if "measured" in r},
        refused={n: r["refused"] for n, r in done.items() if "refused" in r},
        seconds=time.monotonic() - started,
    )  # fmt: skip
    if out is not None:
        made.write(out)
    return made


def _record(name: str, subject: Subject) -> dict[str, Any]:
    part, started = PARTS[name], time.monotonic()
    try:
        found = part.measure(subject)
    except TorchproofError as error:
        reason = f"{error.given}; expected: {error.expected}; {error.remedy}"
        return {"name": name, "refused": reason}
    measured = Measured(
        title=part.title, reading=part.reading(found), found=asdict(found),
        seconds=time.monotonic() - started,
    )  # fmt: skip
    return {"name": name, "measured": measured.model_dump()}


def _accuracy(subject: Subject, images: Images) -> tuple[float, int]:
    """Accuracy on images, and the classes of the answer; raises InputError for other labels."""
    hits, classes = 0, 0
    with untouched(subject.model, subject.seed, images.x.device), torch.no_grad():
        parts = (torch.split(part, subject.slots) for part in images)
        for x, y in zip(*parts, strict=True):
            logits = subject.model(x)
            hits, classes = hits + int((logits.argmax(1) == y).sum()), logits.shape[1]
    most = int(images.y.max())
    if most >= classes:
        given = f"labels up to {most} for a network of {classes} classes"
        raise InputError(given, f"labels below {classes}", "name the data it was trained on")
    return hits / len(images.y), classes


def _warnings(train: float, classes: int) -> tuple[str, ...]:
    if train < 0.5 * (1 + 1 / classes):  # nearer to a guess than to what was learnt
        return (
            f"the network classifies {100 * train:.1f} % of the training images: it was "
            "hardly trained on them, and tail index, prunability and flatness say little",
        )
    return ()
