"""Certified accuracy alone: which examples a verifier proves, with no attack beside it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import BaseModel, Field
from torch import Tensor

from torchproof.core.errors import InputError
from torchproof.core.metrics import clopper_pearson
from torchproof.core.room import Room, in_batches
from torchproof.core.sites import Model
from torchproof.core.threats import AnyThreat
from torchproof.evaluate import identity
from torchproof.evaluate.course import Clock, Progress
from torchproof.evaluate.ledger import Ledger
from torchproof.evaluate.member import CERTIFICATE
from torchproof.evaluate.propagation import Bounded, Propagation
from torchproof.evaluate.stored import Stored
from torchproof.evaluate.subject import Subject, examples_of, sharded
from torchproof.evaluate.suites import bounded
from torchproof.evaluate.versions import versions
from torchproof.verify.inputs import InputSet
from torchproof.verify.methods import SECONDS
from torchproof.verify.milp import Trial

SCHEMA = "torchproof.certificate/1"
ASSUMPTIONS = (
    "real arithmetic on the stored weights; bounds computed in float64, whose rounding is not "
    "accounted for"
)
SOUND = (
    "real arithmetic on the stored weights; margins hold less error_bound, for float64 operations "
    "that are rounded one by one"
)
Status = Literal["certified", "broken", "undecided", "wrong", "unfinished"]


class Row(BaseModel):
    """One example. status: "broken" where a search met an input of the threat that the model itself
    answers with another class. margin: the lower bound of z_y - z_t, t != y, that is the least with
    error_bound taken off, null for wrong answers and where none is finite; error_bound: how far it
    may be above what holds in real arithmetic, null where that is not accounted for.
    """

    id: int
    label: int
    status: Status
    margin: float | None
    error_bound: float | None
    seconds: float


class Certificates(Stored):
    """The content of result.json. certified_accuracy: of all n examples, those that are classified
    correctly and proved to stay so; timeout: seconds for each example, null in results from before
    there was a limit for every method.
    """

    file: ClassVar[str] = "result.json"
    remedy: ClassVar[str] = "run `torchproof certify` into this folder first"

    schema_: str = Field(default=SCHEMA, alias="schema")
    threat: dict[str, Any]
    method: str
    sound: bool = False
    timeout: float | None
    seed: int
    clean_accuracy: float
    clean_accuracy_ci95: tuple[float, float]
    certified_accuracy: float
    certified_accuracy_ci95: tuple[float, float]
    assumptions: str = ASSUMPTIONS
    examples: list[Row]
    backward: int
    seconds: float
    versions: dict[str, str]
    command: str


def certify(
    model: Model, data: Any, threat: AnyThreat, method: str = "best", *,
    n: int | None = None, ids: Tensor | None = None, slots: int = 16, out: Path | str | None = None,
    resume: bool = False, max_seconds: float | None = None, sound: bool = True,
    timeout: float = SECONDS,
    progress: Callable[[Progress], None] | None = None, name: str | None = None,
    data_name: str | None = None, model_sha256: str | None = None,
    data_sha256: str | None = None, command: str | None = None, shard: str | None = None,
    known: Sequence[Path] = (),
) -> Certificates:  # fmt: skip
    """Bounds the margins of the first n examples over a threat; the model stays as it was, and is
    asked in eval mode, as `evaluate` does.

    data: (x, y) or an object with .x and .y; method: a name of `verify.methods.METHODS`; slots:
    examples at once; out, resume: the ledger of a run that can go on; max_seconds: for all of it,
    after which the rest stays "unfinished"; sound: takes off what float64 may have lost, where that
    is known; timeout: seconds for each example (of methods without a limit of their own, that many
    times a batch, after which it is undecided); shard: "i/k" takes every k-th example; known:
    folders of the same run's shards, whose examples need not be bounded again. Raises UnknownName,
    InputError, ModelError (operations without a rule, all of them), FileError, ResumeError.
    """
    verifier, about = Propagation(method, sound, timeout), bounded(threat)
    examples = sharded(examples_of(data, n, ids, data_name, data_sha256), shard)
    subject = Subject.of(model, examples, 0, False)
    settings = {"threats": [identity.exact(threat)], "method": method, "sound": sound,
                "timeout": timeout}  # fmt: skip
    settings |= {} if shard is None else {"shard": shard}
    told = {"command": command, "threat": identity.threat_entry([threat])}
    header = identity.header(subject, model_sha256, name, settings, told)
    ledger = Ledger.open(header, None if out is None else Path(out), resume)
    clock = Clock(max_seconds)
    try:
        ledger.take(known, ("shard", "ids"))
        _work(subject, ledger, clock, Room(slots), verifier, about, progress)
        ledger.sync()
    finally:
        ledger.close()
    found = _summary(subject, ledger, method)
    if out is not None:
        found.save(out)
    return found


def _work(
    subject: Subject, ledger: Ledger, clock: Clock, room: Room, verifier: Propagation,
    threat: AnyThreat, progress: Callable[[Progress], None] | None,
) -> None:  # fmt: skip
    """Records every example that has none yet."""
    ids = subject.examples.ids.tolist()
    todo = [row for row, i in enumerate(ids) if CERTIFICATE not in ledger.of(i)]
    done, total = 0, len(todo)

    def work(rows: list[int]) -> None:
        nonlocal done
        x, y = subject.rows(rows)
        clock.lap()
        with subject.asked(CERTIFICATE) as answer:
            right = subject.model(x).argmax(1) == y
            asked = right.nonzero()[:, 0]
            verifier.ready(subject.model, x)
            margins = Bounded(x.new_zeros(0, 1), None, 0)
            if len(asked):
                margins = verifier.margins(subject.model, x[asked], y[asked], threat)
            broken = _refuted(answer, x[asked], y[asked], threat, margins)
        each = clock.lap() / len(rows)
        known = zip(broken, _least(margins), strict=True)
        found = [next(known) if sure else (False, (None, None)) for sure in right.tolist()]
        ledger.add(
            [
                {"id": ids[row], "attack": CERTIFICATE, "correct": correct, "margin": margin,
                 "error_bound": error, "backward": margins.rows // len(rows), "seconds": each,
                 "broken": lost}
                for row, correct, (lost, (margin, error))
                in zip(rows, right.tolist(), found, strict=True)
            ]
        )  # fmt: skip
        done += len(rows)
        if progress is not None:
            progress(Progress(CERTIFICATE, done, total, 0))

    in_batches(todo, room, clock.over, work)


@torch.no_grad()
def _refuted(model: Model, x: Tensor, y: Tensor, threat: AnyThreat, margins: Bounded) -> list[bool]:
    """For each example, whether the model itself gives another class to what was found: in its own
    dtype, brought into the set.
    """
    lost = [False] * len(x)
    for row, at in enumerate(margins.found):
        if at is not None:
            trial = Trial(model, InputSet.of(x[row : row + 1], threat), int(y[row]))
            lost[row] = trial.broken(at[None] - x[row : row + 1].to(at)) is not None
    return lost


def _least(margins: Bounded) -> list[tuple[float | None, float | None]]:
    """The margin that is the least, and its error, for every example."""
    worst = margins.sure.argmin(1, keepdim=True)
    lower = margins.lower.gather(1, worst)[:, 0].tolist()
    none = [None] * len(lower)
    errors = none if margins.error is None else margins.error.gather(1, worst)[:, 0].tolist()
    return [
        (low, error) if math.isfinite(low) else (None, None)
        for low, error in zip(lower, errors, strict=True)
    ]


def _summary(subject: Subject, ledger: Ledger, method: str) -> Certificates:
    examples = subject.examples
    rows = [
        _row(i, y, ledger.of(i).get(CERTIFICATE))
        for i, y in zip(examples.ids.tolist(), examples.y.tolist(), strict=True)
    ]
    asked = [row for row in rows if row.status != "unfinished"]
    if not asked:
        raise InputError("no time for a single example", "some seconds", "raise max_seconds")
    right = sum(row.status != "wrong" for row in asked)
    sure = sum(row.status == "certified" for row in rows)
    header = ledger.header
    sound = any(row.error_bound is not None for row in rows)
    return Certificates(
        date=header.about["date"], model=header.about["model"],
        model_sha256=header.settings["model_sha256"], data=examples.name,
        data_sha256=examples.sha256, n=len(rows), threat=header.about["threat"],
        method=method, sound=sound, timeout=header.settings.get("timeout"), seed=0,
        clean_accuracy=right / len(asked), clean_accuracy_ci95=clopper_pearson(right, len(asked)),
        certified_accuracy=sure / len(rows),
        certified_accuracy_ci95=clopper_pearson(sure, len(rows)),
        assumptions=SOUND if sound else ASSUMPTIONS, examples=rows,
        backward=sum(ledger.of(row.id).get(CERTIFICATE, {}).get("backward", 0) for row in rows),
        seconds=sum(row.seconds for row in rows), versions=versions(),
        command=header.about["command"] or
        f"torchproof.evaluate.certify({header.about['model']}, {examples.name}, method={method!r})",
    )  # fmt: skip


def _row(example: int, label: int, record: dict[str, Any] | None) -> Row:
    if record is None:
        return Row(id=example, label=label, status="unfinished", margin=None, error_bound=None,
                   seconds=0.0)  # fmt: skip
    margin, error = record["margin"], record["error_bound"]
    proved = record["correct"] and margin is not None and margin - (error or 0.0) > 0
    lost: Status = "broken" if record.get("broken", False) else "undecided"
    status: Status = "certified" if proved else lost if record["correct"] else "wrong"
    return Row(id=example, label=label, status=status, margin=margin, error_bound=error,
               seconds=record["seconds"])  # fmt: skip
