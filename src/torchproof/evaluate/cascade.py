"""The cascade: each attack sees what survived those before it, packed into full batches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from torchproof.attack.cases import Found
from torchproof.attack.run import Run
from torchproof.core import keys
from torchproof.core.errors import ModelError
from torchproof.core.grid import on_grid
from torchproof.core.sets import Ball
from torchproof.evaluate.course import Course
from torchproof.evaluate.entries import Entry
from torchproof.evaluate.ledger import Record
from torchproof.evaluate.member import History
from torchproof.evaluate.outcome import alive
from torchproof.evaluate.recheck import named, recheck
from torchproof.evaluate.subject import Subject
from torchproof.evaluate.suites import bounded


def cascade(subject: Subject, course: Course, entries: Sequence[Entry]) -> None:
    """Runs every member on what is left, and re-checks what it found before the next one starts.

    An image whose re-check fails is not broken by that member: the example goes on to the next.
    """
    for position, entry in enumerate(entries):
        Stage(subject, course, entry, entries[:position]).run()
        recheck(subject, course, entry.label, entry.member.attack.threat)


@dataclass
class Stage:
    """One member at work on the survivors of those before it."""

    subject: Subject
    course: Course
    entry: Entry
    before: Sequence[Entry]
    total: int = 0
    done: int = 0
    broken: int = 0

    @property
    def label(self) -> str:
        """The member's name in this evaluation."""
        return self.entry.label

    def pending(self) -> list[int]:
        """Rows that every earlier attack left standing and that this one has not dealt with."""
        labels = self.subject.examples.y.tolist()
        ids = self.subject.examples.ids.tolist()
        ledger, earlier = self.course.ledger, [entry.label for entry in self.before]
        standing = [
            row
            for row, (i, y) in enumerate(zip(ids, labels, strict=True))
            if alive(ledger.of(i), y, earlier)
        ]
        fresh = [row for row in standing if self.label not in ledger.of(ids[row])]
        left = [row for row in fresh if self.entry.member.who(self._history(ids[row]))]
        self._skip([ids[row] for row in sorted(set(fresh) - set(left))])
        self.total, self.done = len(standing), len(standing) - len(left)
        mine = (ledger.of(ids[row]).get(self.label, {}) for row in standing)
        self.broken = sum(bool(record.get("lost")) for record in mine)
        return left

    def _history(self, example: int) -> History:
        return self.entry.history(self.before, self.course.ledger.of(example))

    def _skip(self, examples: list[int]) -> None:
        """Records that these examples need no such attack."""
        blank: Record = {"lost": False, "image": None, "score": None, "forward": 0, "backward": 0}
        why = {"skipped": repr(self.entry.member.who), "seconds": 0.0}
        self.course.ledger.add([{"id": i, "attack": self.label, **blank, **why} for i in examples])

    def _aimed(self, rows: list[int]) -> Tensor | None:
        """(B,) the classes to attack, where the evaluation or the member is aimed."""
        aim, ids = self.entry.member.aim, self.subject.examples.ids
        if self.subject.examples.target is not None:
            return self.subject.examples.target[rows]
        if not aim:
            return None
        return torch.tensor([self._history(int(ids[row]))[aim]["target"] for row in rows])

    def run(self) -> None:
        """Until nothing is pending or the time is up."""
        self.course.work_off(self.pending, self.attack)

    def attack(self, rows: list[int]) -> None:
        """One call of the engine; results are recorded as examples finish."""
        subject, course = self.subject, self.course
        index = torch.tensor(rows)
        x, y = subject.examples.x[index], subject.examples.y[index]
        run = Run(
            seed=keys.seed_of(subject.seed, self.entry.member.name),
            ids=subject.examples.ids[index],
            slots=course.room.slots,
            # the first win of a randomised model is a lucky draw: the worst of all points holds
            patience=math.inf if getattr(subject.model, "draws", 1) > 1 else 0.0,
            on_done=lambda found, done: self.record(rows, x, found, done),
            stop=course.clock.over,
        )
        attack = self.entry.member.attack
        attack(subject.model, x, y, target=self._aimed(rows), run=run)

    def record(self, rows: list[int], x: Tensor, found: Found, done: list[int]) -> None:
        """Writes the images of the lost among the finished examples, then a record of each."""
        course = self.course
        lost = [problem for problem in done if bool(found.lost[problem])]
        sums = dict(zip(lost, self._store(rows, x, found, lost), strict=True))
        seconds = course.clock.lap() / len(done)
        ids = self.subject.examples.ids
        records: list[Record] = []
        for problem in done:
            forward, backward = found.spent[problem].tolist()
            score, blind = float(found.score[problem]), int(found.undefined[problem])
            records.append(
                {
                    "id": int(ids[rows[problem]]),
                    "attack": self.label,
                    "lost": problem in sums,
                    "image": sums.get(problem),
                    "score": score if math.isfinite(score) else None,
                    "target": int(found.by[problem, 0]),
                    "forward": forward,
                    "backward": backward,
                    "seconds": seconds,
                    **({"undefined": blind} if blind else {}),
                }
            )
        course.ledger.add(records)
        self.done, self.broken = self.done + len(done), self.broken + len(lost)
        course.tell(self.label, self.done, self.total, self.broken)

    def _store(self, rows: list[int], x: Tensor, found: Found, lost: list[int]) -> list[int]:
        if not lost:
            return []
        threat, clean = bounded(self.entry.member.attack.threat), x[lost]
        if not isinstance(found.value, Tensor):
            raise ModelError(
                "a perturbation in several parts", "one image", "evaluate single inputs"
            )
        delta = found.value[torch.tensor(lost, device=found.value.device)].to(clean)
        if self.subject.eight_bit:
            ball = self.entry.member.attack.threat.set(self.subject.model, clean)
            assert isinstance(ball, Ball), "evaluations are about balls around single inputs"
            delta = on_grid(ball, delta)
        images = (clean + delta).clamp(threat.low, threat.high)
        return self.course.images.write([rows[problem] for problem in lost], images)


def forget_unfounded(subject: Subject, course: Course, labels: list[str], kept: bool) -> None:
    """Drops records whose image is not the one that is stored, so that they are made again.

    That happens when the power failed between the two, or the images were deleted. Where they were
    not to be kept (`kept` is False), a verdict that was reached from them stands without them.
    """
    ledger, images = course.ledger, course.images
    for row, i in enumerate(subject.examples.ids.tolist()):
        for label in labels:
            record = ledger.of(i).get(label)
            verdict = ledger.of(i).get(named(label))
            if record is None or not record["lost"]:
                continue
            # the place of an image that failed may since have been taken by another attack's
            if verdict is not None and (not verdict["ok"] or (images.fresh and not kept)):
                continue
            if record["image"] != images.checksum(row):
                _forget(course, i, [label, *labels[labels.index(label) + 1 :]])
                break


def _forget(course: Course, example: int, labels: list[str]) -> None:
    for label in labels:
        course.ledger.drop(example, label)
        course.ledger.drop(example, named(label))
