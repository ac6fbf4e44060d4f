"""Probes: what is asked of the model, beside the attacks, to know whether to believe them.

A fixed sample of examples, keyed by id, is asked after the cascade; the answers are records like
all others, and the red flags read nothing else. Everything is bounded: 35 forward and 1 backward
samples per example for its surroundings, and, for one that was left standing, at most 20 steps in
the whole box and at most 200 steps of an attack of the suite.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from torchproof.core.errors import ModelError
from torchproof.core.room import in_batches
from torchproof.evaluate.course import Course
from torchproof.evaluate.entries import Entry
from torchproof.evaluate.inquiry import Answer, Inquiry
from torchproof.evaluate.ledger import Record
from torchproof.evaluate.member import CLEAN, PROBES
from torchproof.evaluate.outcome import ROBUST, UNFINISHED, outcome
from torchproof.evaluate.questions import QUESTIONS
from torchproof.evaluate.subject import Subject


def probe(subject: Subject, course: Course, entries: Sequence[Entry]) -> None:
    """Records the answers of every example of the sample that the attacks `entries` are through
    with and that has none yet; stops when the time is up.
    """
    for number in sorted({entry.threat for entry in entries}):
        mine = [entry for entry in entries if entry.threat == number]
        _about(subject, course, entries, mine, PROBES + (f" {number + 1}" if number else ""))


def _about(
    subject: Subject, course: Course, every: Sequence[Entry], mine: Sequence[Entry], label: str
) -> None:
    """The probes about one threat."""
    status = _statuses(subject, course, every)
    ids, ledger = subject.examples.ids.tolist(), course.ledger
    todo = [row for row in status if label not in ledger.of(ids[row])]
    course.clock.lap()
    done = len(status) - len(todo)

    def work(rows: list[int]) -> None:
        nonlocal done
        answers: dict[int, list[tuple[str, Answer]]] = {row: [] for row in rows}
        for name, question, standing in QUESTIONS:
            asked = [row for row in rows if status[row] == ROBUST or not standing]
            inquiry = Inquiry(subject, course, mine, asked)
            for row, answer in zip(asked, _settled(question, inquiry), strict=True):
                answers[row].append((name, answer))
        found = [_record(ids[row], label, answers[row]) for row in rows]
        whole = [record for record in found if record is not None]
        seconds = course.clock.lap() / max(len(whole), 1)
        ledger.add([record | {"seconds": seconds} for record in whole])
        done += len(whole)
        course.tell(label, done, len(status), 0)

    in_batches(todo, course.room, course.clock.over, work)


def _statuses(subject: Subject, course: Course, entries: Sequence[Entry]) -> dict[int, str]:
    """What became of the rows to ask: in the sample, and dealt with by every attack."""
    names = [entry.label for entry in entries]
    found: dict[int, str] = {}
    ids, labels = subject.examples.ids.tolist(), subject.examples.y.tolist()
    for row, (i, y) in enumerate(zip(ids, labels, strict=True)):
        records = course.ledger.of(i)
        if records.get(CLEAN, {}).get("sampled"):
            status = outcome(i, y, records, names).status
            found |= {} if status == UNFINISHED else {row: status}
    return found


def _record(example: int, label: str, answers: list[tuple[str, Answer]]) -> Record | None:
    """One record of all answers; None where one is missing because the time was up."""
    record: Record = {"id": example, "attack": label, "forward": 0, "backward": 0}
    for _, answer in answers:
        if answer is None:
            return None
        more, forward, backward = answer
        record |= {name: value for name, value in more.items() if name != "failed"}
        record["forward"] += forward
        record["backward"] += backward
    failed = [name for name, answer in answers if answer is not None and "failed" in answer[0]]
    return record | ({"failed": failed} if failed else {})


def _settled(question: Callable[[Inquiry], list[Answer]], inquiry: Inquiry) -> list[Answer]:
    """The answers; one example's NaN is held against that example alone."""
    rows = inquiry.rows
    if not rows:
        return []
    try:
        return question(inquiry)
    except ModelError:
        if len(rows) == 1:
            return [({"failed": True}, 0, 0)]
    halves = rows[: len(rows) // 2], rows[len(rows) // 2 :]
    return [a for half in halves for a in _settled(question, replace(inquiry, rows=half))]
