"""The sum of an evaluation by chunks, and what its folder holds.

`OUT/chunks/000000` and so on hold the ledger and the table of each chunk; `OUT/stream.json` says
what was asked, `OUT/result.json` is the sum.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from torchproof.core.metrics import clopper_pearson
from torchproof.evaluate.flags import NOTE, SEVERE, WARNING
from torchproof.evaluate.flags.size import left_open
from torchproof.evaluate.ledger import RESULT
from torchproof.evaluate.outcome import Example
from torchproof.evaluate.record import (
    EXAMPLES,
    AttackRecord,
    FlagRecord,
    ProbesRecord,
    Result,
    StandingRecord,
    read_examples,
)

SCHEMA = "torchproof.stream/2"
CHUNKS, SETTINGS = "chunks", "stream.json"
DONE = ("done-base", "done-full")  # a chunk's marks: without and with the reserve of the suite

_NUMBER = re.compile(r"\d[\d.]*(e[+-]?\d+)?")
_FOLDED: dict[str, Callable[[list[float]], float]] = {
    "examples of their target class left out": sum,
    "moved by at most": max,
}
_ON_REQUEST = " run on request on what was left"
_FEW = "few-examples"
_ORDER = [SEVERE, WARNING, NOTE]


class RaisedRecord(FlagRecord):
    """A flag with the number of chunks that raised it; the evidence is that of the first."""

    chunks: int


class StreamResult(Result):
    """The content of result.json of an evaluation by chunks.

    As `Result`, over the chunks that were evaluated; complete: are these all (of the shard)?
    data_sha256 is over the hashes of the chunks; flags are raised chunk by chunk. The rows of the
    examples are in the chunks' own folders.
    """

    remedy: ClassVar[str] = "evaluate the stream into this folder first"

    schema_: str = Field(default=SCHEMA, alias="schema")
    examples: str = f"{CHUNKS}/*/{EXAMPLES}"
    chunks: int
    complete: bool
    flags: list[RaisedRecord]  # type: ignore[assignment]  # read only, and each is a FlagRecord


@dataclass(frozen=True)
class Rows(Collection[Example]):
    """The rows of all examples, read chunk by chunk whenever they are gone through."""

    folder: Path
    count: int

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Example]:
        for chunk in evaluated(self.folder):
            yield from read_examples(chunk)

    def __contains__(self, row: object) -> bool:
        return any(row == other for other in self)


def folder_of(out: Path, number: int) -> Path:
    return out / CHUNKS / f"{number:06d}"


def evaluated(out: Path) -> list[Path]:
    """The folders of the chunks with a result, in order."""
    return sorted(path.parent for path in (out / CHUNKS).glob(f"*/{RESULT}"))


def summed(out: Path, complete: bool, shard: str | None = None) -> StreamResult | None:
    """The sum over all chunks with a result; None where there is none."""
    tally = Tally()
    if shard is not None:
        tally.label(f"shard {shard}: its chunks, not those of the others")
    for folder in evaluated(out):
        tally.add(Result.read(folder))
    return None if tally.first is None else tally.result(tally.first, complete)


@dataclass
class Tally:
    """Sums over chunks; memory does not grow with their number."""

    first: Result | None = None
    date: str = ""
    chunks: int = 0
    n: int = 0
    clean: int = 0
    robust: int = 0
    rejected: float = 0.0
    spent: float = 0.0  # on the examples that stood
    stood: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    standing: dict[str, int] = field(default_factory=dict)
    probes: dict[str, float] = field(default_factory=dict)
    seen: dict[str, int] = field(default_factory=dict)  # robust ones of chunks an attack was at
    left: dict[str, int] = field(default_factory=dict)
    attacks: dict[str, AttackRecord] = field(default_factory=dict)
    flags: dict[tuple[str, str], RaisedRecord] = field(default_factory=dict)
    labels: dict[str, list[float]] = field(default_factory=dict)
    digest: Any = field(default_factory=hashlib.sha256)

    def add(self, result: Result) -> None:
        robust = round(result.robust_accuracy * result.n)
        self.first, self.date = self.first or result, max(self.date, result.date)
        self.chunks, self.n = self.chunks + 1, self.n + result.n
        self.clean += round(result.clean_accuracy * result.n)
        self.robust += robust
        self.rejected += (result.rejection_rate or 0.0) * result.n
        if result.per_robust_example is not None:
            self.spent += result.per_robust_example * robust
            self.stood += robust
        _add(self.sums, {k: getattr(result, k) for k in ("forward", "backward", "seconds")})
        _add(self.standing, {} if result.standing is None else result.standing.model_dump())
        _add(self.probes, result.probes.model_dump())
        self.digest.update(result.data_sha256.encode())
        for label in result.labels:
            self.label(label)
        for attack in result.attacks:
            self._attack(attack, result.n, robust)
        for flag in result.flags:
            before = self.flags.get((flag.name, flag.severity))
            told = before.model_dump() if before else {**flag.model_dump(), "chunks": 0}
            told["chunks"] += 1
            self.flags[flag.name, flag.severity] = RaisedRecord(**told)

    def label(self, text: str) -> None:
        """A label; those that hold a count of the chunk are one."""
        if any(phrase in text for phrase in _FOLDED) and (found := _last(text)) is not None:
            shape = text[: found.start()] + "{:.6g}" + text[found.end() :]
            self.labels.setdefault(shape, []).append(float(found.group()))
            fold = next(f for phrase, f in _FOLDED.items() if phrase in shape)
            self.labels[shape] = [fold(self.labels[shape])]
        else:
            self.labels.setdefault(text, [])

    def _attack(self, a: AttackRecord, n: int, robust: int) -> None:
        _add(self.left, {a.name: round(a.robust_accuracy * n)})
        _add(self.seen, {a.name: robust})
        before = self.attacks.get(a.name)
        names = ("broken", "forward", "backward", "seconds")
        total = {k: getattr(a, k) + (getattr(before, k) if before else 0) for k in names}
        self.attacks[a.name] = a.model_copy(update=total)

    def _table(self) -> list[AttackRecord]:
        """A reserve may have been run on some chunks only: on the others it left what stood."""
        left = {k: self.left[k] + self.robust - self.seen[k] for k in self.attacks}
        made = self.attacks.items()
        return [a.model_copy(update={"robust_accuracy": left[k] / self.n}) for k, a in made]

    def said(self) -> list[str]:
        """The labels; a reserve that one chunk asked for was run on request on the others."""
        texts = [text.format(*values) if values else text for text, values in self.labels.items()]
        asked = any(" run after " in text for text in texts)
        return [text for text in texts if not (asked and text.endswith(_ON_REQUEST))]

    def _raised(self, complete: bool) -> list[RaisedRecord]:
        """The flags, severe ones first; how many examples there are is judged of all together."""
        found = []
        for flag in self.flags.values():
            where = f"in {flag.chunks} of {self.chunks} chunks; in the first: "
            evidence = flag.evidence if self.chunks == 1 else where + flag.evidence
            if flag.name == _FEW:
                evidence = left_open(self.robust, self.n) or ""
            if evidence:
                found.append(flag.model_copy(update={"evidence": evidence}))
        if not complete and not any(flag.name == "unfinished" for flag in found):
            found.append(
                RaisedRecord(
                    name="unfinished", severity=SEVERE, chunks=0,
                    evidence=f"the stream was left after {self.n} examples",
                    remedy="evaluate again with resume=True and more max_seconds",
                )
            )  # fmt: skip
        return sorted(found, key=lambda flag: _ORDER.index(flag.severity))

    def result(self, first: Result, complete: bool) -> StreamResult:
        flags, n = self._raised(complete), self.n
        certified = None if first.standing is None else self.standing["certified"] / n
        standing = None if first.standing is None else StandingRecord(**self.standing)
        own = {
            "n": n, "date": self.date, "data_sha256": self.digest.hexdigest(),
            "chunks": self.chunks, "complete": complete, "clean_accuracy": self.clean / n,
            "robust_accuracy": self.robust / n,
            "robust_accuracy_ci95": clopper_pearson(self.robust, n),
            "certified_accuracy": certified, "standing": standing,
            "rejection_rate": None if first.rejection_rate is None else self.rejected / n,
            "attacks": self._table(), "flags": flags, "labels": self.said(),
            "per_robust_example": self.spent / self.stood if self.stood else None,
            "probes": ProbesRecord(**self.probes), **self.sums,
            "verdict": "unreliable" if any(f.severity == SEVERE for f in flags) else "ok",
        }  # fmt: skip
        defaults = {"schema_", "examples"}
        kept = {k: getattr(first, k) for k in Result.model_fields if k not in {*own, *defaults}}
        return StreamResult(**kept, **own)


def _add(sums: dict[str, Any], more: dict[str, Any]) -> None:
    for name, value in more.items():
        sums[name] = sums.get(name, 0) + value


def _last(text: str) -> re.Match[str] | None:
    """The number of a label that counts: the first in one that starts with it, else the last."""
    found = list(_NUMBER.finditer(text))
    if not found:
        return None
    return found[0] if found[0].start() == 0 else found[-1]
