"""Accuracy under common corruptions: no adversary, but noise, blur, weather and digital faults."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, ClassVar

import torch
from pydantic import BaseModel, Field
from torch import Tensor

from torchproof.core.errors import InputError, unknown
from torchproof.core.fingerprints import model_sha256 as weights_sha256
from torchproof.core.metrics import clopper_pearson
from torchproof.core.room import Room, in_batches
from torchproof.core.sites import Model
from torchproof.corrupt import CORRUPTIONS, STRENGTHS, corrupt
from torchproof.evaluate import identity
from torchproof.evaluate.course import Progress
from torchproof.evaluate.stored import Stored
from torchproof.evaluate.subject import Subject, examples_of
from torchproof.evaluate.versions import versions

SCHEMA = "torchproof.corruptions/1"
FILE = "corruptions.json"
NOTE = (
    "torchproof's own corruptions, not the files of CIFAR-10-C or ImageNet-C: "
    "compare with figures of torchproof only"
)


class KindRecord(BaseModel):
    """One kind: accuracies by strength, their mean, and 95 % intervals of all of them."""

    kind: str
    accuracies: list[float]
    intervals: list[tuple[float, float]]
    mean: float
    mean_ci95: tuple[float, float]


class Corruptions(Stored):
    """The content of corruptions.json; accuracies are fractions of all n examples.

    mean_accuracy is the mean over kinds and strengths. Its interval, and that of a kind, takes the
    images for the sample: an image counts with the share of its versions that are classified
    correctly, and the interval is Clopper and Pearson's for the sum of these shares, which is wide
    enough because no share varies more than a coin that falls as often.
    """

    file: ClassVar[str] = FILE
    remedy: ClassVar[str] = "run `torchproof corrupt` into this folder first"

    schema_: str = Field(default=SCHEMA, alias="schema")
    seed: int
    strengths: list[int]
    clean_accuracy: float
    clean_accuracy_ci95: tuple[float, float]
    mean_accuracy: float
    mean_accuracy_ci95: tuple[float, float]
    kinds: list[KindRecord]
    forward: int
    seconds: float
    note: str = NOTE
    versions: dict[str, str]
    command: str


def corruptions(
    model: Model, data: Any, kinds: Sequence[str] = tuple(CORRUPTIONS),
    strengths: Sequence[int] = STRENGTHS, *,
    seed: int = 0, n: int | None = None, ids: Tensor | None = None, slots: int = 128,
    progress: Callable[[Progress], None] | None = None, name: str | None = None,
    data_name: str | None = None, model_sha256: str | None = None,
    data_sha256: str | None = None, command: str | None = None,
) -> Corruptions:  # fmt: skip
    """The accuracy of a model on corrupted versions of the first n examples; the model stays as it
    was.

    data: (x, y) or an object with .x and .y; ids key each image's randomness, by default its
    position; slots: images per model call; progress, name, data_name, the hashes, command: as in
    `evaluate`. Raises UnknownName, InputError and ModelError.
    """
    _check(kinds, strengths)
    began = monotonic()
    examples = examples_of(data, n, ids, data_name, data_sha256)
    subject = Subject.of(model, examples, seed, False)
    room = Room(slots)
    with torch.inference_mode(False), torch.no_grad():
        clean = _right(subject, room, None, 0, progress)
        right = torch.stack(
            [
                torch.stack([_right(subject, room, kind, s, progress) for s in strengths])
                for kind in kinds
            ]
        )
    who = identity.called(model, name)
    call = f"torchproof.evaluate.corruptions({who}, {examples.name}, n={examples.total}, "
    accuracy, interval = _mean(right.flatten(0, 1))
    return Corruptions(
        date=identity.now(),
        model=who,
        model_sha256=model_sha256 or weights_sha256(model),
        data=examples.name,
        data_sha256=examples.sha256,
        n=len(subject),
        seed=seed,
        strengths=list(strengths),
        clean_accuracy=float(clean.double().mean()),
        clean_accuracy_ci95=clopper_pearson(int(clean.sum()), len(clean)),
        mean_accuracy=accuracy,
        mean_accuracy_ci95=interval,
        kinds=[_kind(kind, of) for kind, of in zip(kinds, right, strict=True)],
        forward=len(subject) * (1 + len(kinds) * len(strengths)),
        seconds=monotonic() - began,
        versions=versions(),
        command=command or f"{call}seed={seed})",
    )


def _check(kinds: Sequence[str], strengths: Sequence[int]) -> None:
    for kind in kinds:
        if kind not in CORRUPTIONS:
            raise unknown("corruption", kind, CORRUPTIONS)
    chosen = list(strengths)
    if not kinds or len(set(kinds)) < len(kinds):
        raise InputError(f"kinds {list(kinds)}", "at least one, each once", "name them once")
    if not chosen or len(set(chosen)) < len(chosen) or not set(chosen) <= set(STRENGTHS):
        raise InputError(
            f"strengths {chosen}", "some of 1, 2, 3, 4, 5, each once", "5 is strongest"
        )


def _right(
    subject: Subject,
    room: Room,
    kind: str | None,
    strength: int,
    progress: Callable[[Progress], None] | None,
) -> Tensor:
    """(N,) bool: which images are classified correctly under one corruption, None for none."""
    right = torch.zeros(len(subject), dtype=torch.bool)
    stage = "clean" if kind is None else f"{kind} {strength}"
    ids, done = subject.examples.ids, 0

    def work(rows: list[int]) -> None:
        nonlocal done
        x, y = subject.rows(rows)
        if kind is not None:
            x = corrupt(x, kind, strength, seed=subject.seed, ids=ids[rows])
        with subject.asked(stage) as ask:
            right[rows] = (ask(x).argmax(1) == y).cpu()
        done += len(rows)
        if progress is not None:
            progress(Progress(stage, done, len(right), done - int(right.sum())))

    in_batches(range(len(right)), room, lambda: False, work)
    return right


def _kind(kind: str, right: Tensor) -> KindRecord:
    """right: (S, N)."""
    mean, interval = _mean(right)
    return KindRecord(
        kind=kind,
        accuracies=right.double().mean(1).tolist(),
        intervals=[clopper_pearson(int(row.sum()), len(row)) for row in right],
        mean=mean,
        mean_ci95=interval,
    )


def _mean(right: Tensor) -> tuple[float, tuple[float, float]]:
    """The mean of (V, N) verdicts on V versions of N images, and its interval."""
    shares = right.double().mean(0)
    return float(shares.mean()), clopper_pearson(round(float(shares.sum())), len(shares))
