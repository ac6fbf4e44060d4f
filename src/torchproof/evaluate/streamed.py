"""`evaluate_stream`: an evaluation of more examples than memory holds, a chunk at a time.

Each chunk is an evaluation of its own, in a folder of its own, with the ids its examples have in
the whole; so every decision is that of one evaluation of all of them. What is kept in memory are
sums.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from pydantic import Field
from torch import Tensor

from torchproof.core.errors import FileError, InputError, ResumeError
from torchproof.core.files import write, writing
from torchproof.core.fingerprints import model_sha256
from torchproof.core.metrics import clopper_pearson
from torchproof.core.sites import Model
from torchproof.core.threats import AnyThreat
from torchproof.evaluate.entries import Chosen
from torchproof.evaluate.evaluation import evaluate
from torchproof.evaluate.flags import SEVERE
from torchproof.evaluate.identity import exact
from torchproof.evaluate.ledger import RESULT
from torchproof.evaluate.merge import asked_of
from torchproof.evaluate.record import AttackRecord, FlagRecord, Result
from torchproof.evaluate.stored import Stored

SCHEMA = "torchproof.stream/1"
CHUNKS, SETTINGS = "chunks", "stream.json"


class Chunked(Protocol):
    """Examples that come in chunks, in the same order whenever they are asked for."""

    @property
    def name(self) -> str: ...

    def chunks(self, size: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """`size` examples at a time, fewer in the end, from chunk number `first` on."""
        ...


class RaisedRecord(FlagRecord):
    """A flag with the number of chunks that raised it; the evidence is that of the first."""

    chunks: int


class StreamResult(Stored):
    """The content of result.json of an evaluation by chunks.

    Names are those of `Result`; n: examples of the chunks that are done; complete: are these all?
    data_sha256 is over the hashes of the chunks; flags are raised chunk by chunk. The rows of the
    examples are in the chunks' own folders.
    """

    file: ClassVar[str] = RESULT
    remedy: ClassVar[str] = "evaluate the stream into this folder first"

    schema_: str = Field(default=SCHEMA, alias="schema")
    suite: str
    threat: str
    seed: int
    chunks: int
    complete: bool
    clean_accuracy: float
    robust_accuracy: float
    robust_accuracy_ci95: tuple[float, float]
    attacks: list[AttackRecord]
    forward: int
    backward: int
    seconds: float
    flags: list[RaisedRecord]
    labels: list[str]
    verdict: str


@dataclass
class _Tally:
    """Sums over chunks."""

    first: Result | None = None
    chunks: int = 0
    n: int = 0
    clean: int = 0
    robust: int = 0
    forward: int = 0
    backward: int = 0
    seconds: float = 0.0
    left: dict[str, int] = field(default_factory=dict)
    attacks: dict[str, AttackRecord] = field(default_factory=dict)
    flags: dict[tuple[str, str], RaisedRecord] = field(default_factory=dict)
    labels: dict[str, None] = field(default_factory=dict)
    digest: Any = field(default_factory=hashlib.sha256)

    def add(self, result: Result) -> None:
        self.first = self.first or result
        self.chunks, self.n = self.chunks + 1, self.n + result.n
        self.clean += round(result.clean_accuracy * result.n)
        self.robust += round(result.robust_accuracy * result.n)
        self.forward, self.backward = self.forward + result.forward, self.backward + result.backward
        self.seconds += result.seconds
        self.digest.update(result.data_sha256.encode())
        self.labels |= dict.fromkeys(result.labels)
        for a in result.attacks:
            self._attack(a, result.n)
        for f in result.flags:
            before = self.flags.get((f.name, f.severity))
            told = before.model_dump() if before else {**f.model_dump(), "chunks": 0}
            told["chunks"] += 1
            self.flags[f.name, f.severity] = RaisedRecord(**told)

    def _attack(self, a: AttackRecord, n: int) -> None:
        self.left[a.name] = self.left.get(a.name, 0) + round(a.robust_accuracy * n)
        before = self.attacks.get(a.name)
        sums = ("broken", "forward", "backward", "seconds")
        total = {k: getattr(a, k) + (getattr(before, k) if before else 0) for k in sums}
        self.attacks[a.name] = a.model_copy(update=total)

    def table(self) -> list[AttackRecord]:
        made = self.attacks.items()
        return [a.model_copy(update={"robust_accuracy": self.left[k] / self.n}) for k, a in made]


def evaluate_stream(
    model: Model, data: Chunked, threat: AnyThreat | Sequence[AnyThreat],
    suite: Chosen = "thorough", *,
    out: Path | str, chunk: int = 2000, resume: bool = False, seed: int = 0,
    full: bool = False, max_seconds: float | None = None, name: str | None = None,
    progress: Callable[[int], None] | None = None, **more: Any,
) -> StreamResult:  # fmt: skip
    """Clean and robust accuracy over all examples of `data`; memory is that of one chunk.

    data: has .name and .chunks(size, first), such as `torchproof.data.stream.Stream`; out: a
    folder, which keeps a ledger and a table of examples for each chunk (`chunks/000000` ...) and
    where an interrupted run goes on with resume=True; chunk: examples of a chunk; full: the suite's
    reserve runs everywhere; without it, it runs everywhere as soon as a chunk asks for it, which
    takes a second pass; max_seconds: no further chunk is begun afterwards; progress: called with
    the number of examples done; more: further arguments of `evaluate`, such as slots.

    Whether a red flag is raised depends on `chunk`, nothing else does. Raises what `evaluate`
    raises, InputError for a chunk below 1 and a stream without examples, FileError for a folder
    that holds a run, ResumeError where that was another.
    """
    if chunk < 1:
        raise InputError(f"chunk = {chunk}", "a whole number from 1", "2000 is usual")
    out, digest = Path(out), model_sha256(model)
    threats: list[Any] = list(threat) if isinstance(threat, (list, tuple)) else [threat]
    about = {
        "schema": SCHEMA, "model_sha256": digest, "data": data.name,
        "threat": [exact(one) for one in threats], "chunk": chunk, "seed": seed,
        "suite": suite if isinstance(suite, str) else "own",
    }  # fmt: skip
    _claim(out, about, resume)
    end = None if max_seconds is None else time.monotonic() + max_seconds
    given = {**more, "seed": seed, "name": name, "model_sha256": digest, "data_name": data.name}

    def one(number: int, pair: tuple[Tensor, Tensor], everything: bool | None) -> None:
        ids = number * chunk + torch.arange(len(pair[0]))
        evaluate(
            model, pair, threat, suite, ids=ids, out=_folder(out, number), resume=True,
            full=everything, save_adversarial=False, **given,
        )  # fmt: skip

    stages: list[bool | None] = [True] if full else [None, True]
    complete = False
    for stage in stages:
        complete = _stage(out, data, chunk, stage, one, end, progress)
        if not complete or not _asks(out):
            break
    result = _summed(out, complete, about, data.name)
    result.save(out)
    return result


def _claim(out: Path, about: dict[str, Any], resume: bool) -> None:
    """Makes the folder this run's."""
    path = out / SETTINGS
    if not path.exists():
        with writing(out):
            (out / CHUNKS).mkdir(parents=True, exist_ok=True)
        write(path, json.dumps(about, indent=2).encode() + b"\n")
        return
    if not resume:
        remedy = "pass resume=True to go on with it, or choose another folder"
        raise FileError(f"{out}, which holds a run", "a new folder", remedy)
    try:
        stored = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        given = f"{path} ({error})"
        raise FileError(given, "the settings of a run", "choose another folder") from error
    changed = [k for k, v in about.items() if stored.get(k) != v]
    if changed:
        shown = "; ".join(f"{k} was {stored.get(k)!r}, is {about[k]!r}" for k in changed)
        raise ResumeError(shown, "the settings of the stored run", "choose another folder")


def _folder(out: Path, number: int) -> Path:
    return out / CHUNKS / f"{number:06d}"


def _done(out: Path, number: int, stage: bool | None) -> bool:
    """Is a chunk done? One that was run in full has nothing left to do."""
    names = ("full",) if stage else ("base", "full")
    return any((_folder(out, number) / f"done-{name}").exists() for name in names)


def _stage(
    out: Path, data: Chunked, chunk: int, stage: bool | None, one: Callable[..., None],
    end: float | None, progress: Callable[[int], None] | None,
) -> bool:  # fmt: skip
    """Evaluates the chunks that are not done, in order; says whether all are now."""
    number = 0
    while _done(out, number, stage):
        number += 1
    for pair in data.chunks(chunk, number):
        if end is not None and time.monotonic() > end:
            return False
        one(number, pair, stage)
        write(_folder(out, number) / ("done-full" if stage else "done-base"), b"")
        if progress is not None:
            progress(number * chunk + len(pair[0]))
        number += 1
    return True


def _asks(out: Path) -> bool:
    """Does any chunk ask for the reserve of the suite?"""
    number = 0
    while _done(out, number, None):
        if asked_of([_folder(out, number)]):
            return True
        number += 1
    return False


def _summed(out: Path, complete: bool, about: dict[str, Any], name: str) -> StreamResult:
    tally = _Tally()
    while _done(out, tally.chunks, None):
        tally.add(Result.read(_folder(out, tally.chunks)))
    if tally.first is None:
        raise InputError(f"{name} without examples", "at least one chunk", "look at the stream")
    severe = any(flag.severity == SEVERE for flag in tally.flags.values())
    threat = tally.first.threat
    copied = ("date", "model", "model_sha256", "suite", "seed")
    return StreamResult(
        data=name, data_sha256=tally.digest.hexdigest(), n=tally.n, chunks=tally.chunks,
        threat=" ".join([threat.norm, threat.eps_text]), complete=complete,
        clean_accuracy=tally.clean / tally.n, robust_accuracy=tally.robust / tally.n,
        robust_accuracy_ci95=clopper_pearson(tally.robust, tally.n), attacks=tally.table(),
        forward=tally.forward, backward=tally.backward, seconds=tally.seconds,
        flags=list(tally.flags.values()), labels=list(tally.labels),
        verdict="unreliable" if severe else "ok",
        **{key: getattr(tally.first, key) for key in copied},
    )  # fmt: skip
