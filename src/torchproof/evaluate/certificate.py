"""A verifier before the cascade: certified examples are attacked lightly, to check the verifier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from torchproof.core.errors import InputError, ModelError
from torchproof.core.room import in_batches
from torchproof.core.sites import Model
from torchproof.core.threats import AnyThreat
from torchproof.evaluate.course import Course
from torchproof.evaluate.entries import Entry, Terms
from torchproof.evaluate.ledger import Record
from torchproof.evaluate.member import CERTIFICATE, CLEAN, History, Who
from torchproof.evaluate.subject import Subject
from torchproof.evaluate.suites import bounded, quick


class Proof(NamedTuple):
    """certified: (B,) bool, no point of the set changes the class; forward, backward: passes per
    example that it took.
    """

    certified: Tensor
    forward: int
    backward: int


class Verifier(Protocol):
    """Proves robustness of x (B, C, H, W) with labels y (B,) against a threat, soundly."""

    def __call__(self, model: Model, x: Tensor, y: Tensor, threat: AnyThreat) -> Proof: ...


@dataclass(frozen=True)
class Certified:
    """Examples that a verifier certified."""

    def __call__(self, history: History) -> bool:
        return bool(history.get(CERTIFICATE, {}).get("certified"))


@dataclass(frozen=True)
class Uncertified:
    """Those of `who` that no verifier certified."""

    who: Who

    def __call__(self, history: History) -> bool:
        return not Certified()(history) and self.who(history)


def cross_examined(
    found: Sequence[Entry], threats: Sequence[AnyThreat], terms: Terms = Terms()
) -> tuple[Entry, ...]:
    """The entries with the suite `quick` before them for certified examples, for which the rest is
    left out. Raises InputError for more than one threat, a target and a model that may reject: a
    certificate is about one set, and about every other answer.
    """
    if terms != Terms():
        given = f"a verifier and {'a target' if terms.targeted else 'a model that may reject'}"
        raise InputError(given, "one of them", "leave out the verifier")
    if len(threats) > 1:
        given = f"a verifier and {len(threats)} threats"
        raise InputError(given, "one threat", "evaluate each threat on its own")
    taken = {e.label for e in found}
    checks = [
        Entry(f"check {m.name}" if m.name in taken else m.name, replace(m, who=Certified()), 0)
        for m in quick(threats[0]).members
    ]
    rest = [replace(e, member=replace(e.member, who=Uncertified(e.member.who))) for e in found]
    return (*checks, *rest)


def certify(subject: Subject, course: Course, verifier: Verifier, threat: AnyThreat) -> None:
    """Asks the verifier about every correctly classified example that has no record of it yet."""
    ids, ledger = subject.examples.ids.tolist(), course.ledger
    labels = subject.examples.y.tolist()
    todo = [
        row
        for row, (i, y) in enumerate(zip(ids, labels, strict=True))
        if ledger.of(i).get(CLEAN, {}).get("prediction") == y and CERTIFICATE not in ledger.of(i)
    ]
    course.clock.lap()

    def work(rows: list[int]) -> None:
        x, y = subject.rows(rows)
        with subject.asked(CERTIFICATE):
            proof = verifier(subject.model, x, y, bounded(threat))
        if proof.certified.shape != (len(rows),) or proof.certified.dtype != torch.bool:
            given = f"certificates {proof.certified.dtype} {tuple(proof.certified.shape)}"
            raise ModelError(given, f"bool ({len(rows)},)", "mend the verifier")
        seconds = course.clock.lap() / len(rows)
        records: list[Record] = [
            {"id": ids[row], "attack": CERTIFICATE, "certified": sure, "forward": proof.forward,
             "backward": proof.backward, "seconds": seconds}
            for row, sure in zip(rows, proof.certified.tolist(), strict=True)
        ]  # fmt: skip
        ledger.add(records)
        course.tell(CERTIFICATE, len(records), len(todo), 0)

    in_batches(todo, course.room, course.clock.over, work)
