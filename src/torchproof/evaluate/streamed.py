"""`evaluate_stream`: an evaluation of more examples than memory holds, a chunk at a time.

Each chunk is an evaluation of its own, in a folder of its own, with the ids its examples have in
the whole; so every decision is that of one evaluation of all of them. What is kept in memory are
sums. Several processes meet in the folder only: each takes the next chunk that nobody works on.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from torchproof.core.errors import FileError, InputError, ResumeError
from torchproof.core.files import write, writing
from torchproof.core.fingerprints import model_sha256
from torchproof.core.sites import Model
from torchproof.core.threats import AnyThreat
from torchproof.evaluate.entries import Chosen
from torchproof.evaluate.evaluation import evaluate
from torchproof.evaluate.identity import called, exact
from torchproof.evaluate.ledger import RESULT
from torchproof.evaluate.member import Suite
from torchproof.evaluate.merge import asked_of
from torchproof.evaluate.subject import shard_of
from torchproof.evaluate.tally import (
    CHUNKS,
    DONE,
    SCHEMA,
    SETTINGS,
    StreamResult,
    evaluated,
    folder_of,
    summed,
)
from torchproof.evaluate.together import SLEEP, held, left, over

Pair = tuple[Tensor, Tensor]
_DECIDING = ("quantised", "target", "verifier")  # further arguments of `evaluate`


class Chunked(Protocol):
    """Examples that come in chunks, in the same order whenever they are asked for. One that also
    has `unread`, as `Stream` has, passes over the chunks of others without decoding them.
    """

    @property
    def name(self) -> str: ...

    def chunks(self, size: int, first: int = 0) -> Iterator[Pair]:
        """`size` examples at a time, fewer in the end, from chunk number `first` on."""
        ...


def evaluate_stream(
    model: Model, data: Chunked, threat: AnyThreat | Sequence[AnyThreat],
    suite: Chosen = "thorough", *,
    out: Path | str, chunk: int = 2000, resume: bool = False, seed: int = 0,
    full: bool = False, shard: str | None = None, shared: bool = False,
    max_seconds: float | None = None, name: str | None = None,
    progress: Callable[[int], None] | None = None, **more: Any,
) -> StreamResult:  # fmt: skip
    """Clean and robust accuracy over all examples of `data`; memory is that of one chunk.

    data: has .name and .chunks(size, first), such as `torchproof.data.stream.Stream`; out: a
    folder, which keeps a ledger and a table of examples for each chunk (`chunks/000000` ...) and
    where an interrupted run goes on with resume=True; chunk: examples of a chunk; full: the suite's
    reserve runs everywhere; without it, it runs everywhere as soon as a chunk asks for it, which
    takes a second pass; shard: "i/k" takes every k-th chunk (see `merge_streams`); shared: several
    processes make this call, each takes the next chunk that none of the others is at, and each
    returns the whole result; it goes on with what is there (see `require_new`); max_seconds: what
    is begun is stopped then; progress: called with the number of examples passed; more: further
    arguments of `evaluate`, such as slots.

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
        "suite": _named(suite), "shard": shard or "0/1",
        **{key: _text(more.get(key)) for key in _DECIDING},
    }  # fmt: skip
    work = _Work(out, data, chunk, shard_of(shard or "0/1"), shared, left(max_seconds), progress)
    _claim(out, about, resume, shared)
    who = called(model, name)
    command = f"evaluate_stream({who}, {data.name}, {threats}, {about['suite']!r}, chunk={chunk})"
    given = {"command": command, "data_name": data.name, **more, "seed": seed, "name": name,
             "model_sha256": digest}  # fmt: skip

    def one(number: int, pair: Pair, stage: bool | None) -> None:
        if isinstance(target := more.get("target"), int) and bool((pair[1] == target).all()):
            return  # all are left out
        evaluate(
            model, pair, threat, suite, ids=number * chunk + torch.arange(len(pair[0])),
            out=folder_of(out, number), resume=True, full=stage, save_adversarial=False,
            max_seconds=work.left(), **given,
        )  # fmt: skip

    complete = _in_stages(work, one, full)
    result = summed(out, complete, shard)
    if result is None:
        remedy = "look at the stream, or take fewer shards" if complete else "raise max_seconds"
        raise InputError(f"{data.name} without examples", "at least one chunk", remedy)
    result.save(out)
    return result


def _in_stages(work: _Work, one: Callable[..., None], full: bool) -> bool:
    """Without the reserve, then with it where a chunk asks for it; is all of it done?"""
    stages: list[bool | None] = [True] if full else [None, True]
    complete = False
    for stage in stages:
        complete = work.through(partial(one, stage=stage), bool(stage))
        if not complete or stage or not any(asked_of([part]) for part in evaluated(work.out)):
            break
    return complete


def require_new(out: Path, resume: bool) -> None:
    """Raises FileError where a run lies in the folder already, and `resume` does not allow it."""
    if (out / SETTINGS).exists() and not resume:
        remedy = "pass resume=True to go on with it, or choose another folder"
        raise FileError(f"{out}, which holds a run", "a new folder", remedy)
    if (out / RESULT).exists() and not (out / SETTINGS).exists():
        given = f"{out}, which holds a run of another kind"
        raise FileError(given, "a new folder, or that of a stream", "choose another folder")


def _claim(out: Path, about: dict[str, Any], resume: bool, shared: bool) -> None:
    """Makes the folder this run's."""
    require_new(out, resume or shared)
    path = out / SETTINGS
    with writing(out):
        (out / CHUNKS).mkdir(parents=True, exist_ok=True)
    with held(out / CHUNKS, wait=True) if shared else nullcontext():
        if not path.exists():
            write(path, json.dumps(about, indent=2).encode() + b"\n")
            return
    try:
        stored = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        given = f"{path} ({error})"
        raise FileError(given, "the settings of a run", "choose another folder") from error
    changed = [k for k, v in about.items() if stored.get(k) != v]
    if changed:
        shown = "; ".join(f"{k} was {stored.get(k)!r}, is {about[k]!r}" for k in changed)
        raise ResumeError(shown, "the settings of the stored run", "choose another folder")


def _named(suite: Chosen) -> str:
    """What tells a suite from another one."""
    if isinstance(suite, str):
        return suite
    members = (*suite.members, *suite.reserve) if isinstance(suite, Suite) else suite
    return "own: " + ", ".join(member.name for member in members)


def _text(value: Any) -> str:
    return str(getattr(value, "__name__", value))


@dataclass(frozen=True)
class _Work:
    """The chunks that are one call's to do, and how it goes through them."""

    out: Path
    data: Chunked
    chunk: int
    shard: tuple[int, int]
    shared: bool
    left: Callable[[], float | None]
    progress: Callable[[int], None] | None

    def through(self, one: Callable[[int, Pair], None], reserve: bool) -> bool:
        """Calls `one` for every chunk that is not done, in order; says whether all are now."""
        while True:
            busy = []
            for number, read in self._open(reserve):
                with self._alone(number) as mine:
                    if not mine:
                        busy.append(number)
                    elif not self._done(number, reserve):
                        count = _asked(number, read, one)
                        if self._over():  # it may have been stopped short of its end
                            return False
                        write(folder_of(self.out, number) / DONE[reserve], b"")
                        if self.progress is not None:
                            self.progress(number * self.chunk + count)
            if not busy or not self._abandoned(busy, reserve):
                return not busy or not self._over()

    def _over(self) -> bool:
        return over(self.left)()

    def _open(self, reserve: bool) -> Iterator[tuple[int, Callable[[], Pair]]]:
        """The chunks of the shard that are not done, each with what decodes it."""
        index, count = self.shard
        first = index
        while self._done(first, reserve):
            first += count
        whole: Any = self.data
        if hasattr(whole, "unread"):
            walked = whole.unread(self.chunk, first)
        else:
            walked = (lambda pair=pair: pair for pair in whole.chunks(self.chunk, first))
        for number, read in enumerate(walked, first):
            if number % count == index and not self._done(number, reserve):
                yield number, read

    def _done(self, number: int, reserve: bool) -> bool:
        """Is a chunk done? One that was run in full has nothing left to do."""
        names = DONE[1:] if reserve else DONE
        return any((folder_of(self.out, number) / name).exists() for name in names)

    def _alone(self, number: int) -> AbstractContextManager[bool]:
        return held(folder_of(self.out, number)) if self.shared else nullcontext(True)

    def _abandoned(self, busy: list[int], reserve: bool) -> bool:
        """Waits for others to do these chunks; whether one of them was left undone instead."""
        while busy and not self._over():
            for number in busy:
                with self._alone(number) as free:
                    if free and not self._done(number, reserve):
                        return True
            busy = [number for number in busy if not self._done(number, reserve)]
            time.sleep(SLEEP if busy else 0.0)
        return False


def _asked(number: int, read: Callable[[], Pair], one: Callable[[int, Pair], None]) -> int:
    """Decodes a chunk, calls `one` and lets go of it; the number of its examples."""
    pair = read()
    one(number, pair)
    return len(pair[0])
