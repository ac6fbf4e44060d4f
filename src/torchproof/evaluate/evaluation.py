"""`evaluate`: clean accuracy, a cascade of attacks on what survives, a record of every example."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torchproof.core.errors import InputError
from torchproof.core.rejection import Rejecting
from torchproof.core.room import Room
from torchproof.core.sites import Model
from torchproof.core.threats import AnyThreat
from torchproof.evaluate.averaged import Averaged
from torchproof.evaluate.cascade import cascade, forget_unfounded
from torchproof.evaluate.certificate import Verifier, certify, cross_examined
from torchproof.evaluate.clean import clean_pass, confirm_model
from torchproof.evaluate.course import Clock, Course, Progress
from torchproof.evaluate.entries import Chosen, Entry, Terms, draws, entries
from torchproof.evaluate.images import Images
from torchproof.evaluate.ledger import IMAGES, Header, Ledger
from torchproof.evaluate.outcome import BROKEN, UNFINISHED, Example
from torchproof.evaluate.plan import Plan
from torchproof.evaluate.probes import probe
from torchproof.evaluate.report import Report
from torchproof.evaluate.subject import Subject, examples_of, measured, sharded
from torchproof.evaluate.suites import bounded
from torchproof.evaluate.summary import alarms, summarise
from torchproof.evaluate.targeted import Aim, aimed


def evaluate(
    model: Model, data: Any, threat: AnyThreat | Sequence[AnyThreat],
    suite: Chosen = "thorough", *,
    seed: int = 0, n: int | None = None, ids: Tensor | None = None, slots: int = 128,
    out: Path | str | None = None, resume: bool = False, shard: str | None = None,
    quantised: bool = False, max_seconds: float | None = None, save_adversarial: bool = True,
    progress: Callable[[Progress], None] | None = None, name: str | None = None,
    data_name: str | None = None, model_sha256: str | None = None,
    data_sha256: str | None = None, command: str | None = None, full: bool | None = False,
    verifier: Verifier | None = None, target: Aim | None = None,
    rejecting: Rejecting | None = None,
) -> Report:  # fmt: skip
    """Clean and robust accuracy of a model on the first n examples; the model stays as it was.

    data: (x, y) or an object with .x and .y; threat: one, or several for the per-example union;
    suite: a name of SUITES, a Suite or own Members; ids: what keys each example's randomness, by
    default its position; slots: examples per model call; out: a folder for the ledger and the
    result, where an interrupted run goes on with resume=True; shard: "i/k" takes every k-th
    example (see `merge`);
    quantised: only images of 8 bits count; max_seconds: stops and says what is missing; name,
    data_name, the two hashes, command: what the record says of model, data and call; full: the
    suite's reserve runs even where no red flag asks for it, None: nor where one does, for shards of
    which only all together can tell; verifier: certified examples get the
    suite `quick` alone, and a break there is a severe flag; target: a class, or one per example
    (N,): an example is robust unless it is moved there, and examples of that class are left out;
    rejecting: for a model that may reject (see `core.rejection`), how it is judged: an example is
    broken where it is misclassified and accepted.

    No decision depends on slots, order, sharding or resumption. Raises InputError, ModelError,
    UnknownName, FileError and ResumeError, all but the last model errors before anything is done.
    """
    clock, room = Clock(max_seconds), Room(slots)
    threats: list[Any] = list(threat) if isinstance(threat, (list, tuple)) else [threat]
    with torch.inference_mode(False):
        examples = examples_of(data, n, ids, data_name, data_sha256)
        examples = aimed(examples, target, n)
        examples = sharded(measured(examples) if quantised else examples, shard)
        terms = Terms(target is not None, rejecting)
        chosen = _chosen(suite, threats, quantised, terms)
        chosen = chosen if verifier is None else cross_examined(chosen, threats, terms)
        called = None if verifier is None else getattr(verifier, "__name__", repr(verifier))
        plan = Plan(tuple(threats), suite, chosen, draws(suite, threats, terms), called)
        model = model if plan.draws == 1 else Averaged(model, plan.draws)
        subject = Subject.of(model, examples, seed, quantised, rejecting)
        plan = plan.fitted(subject.classes)
        plan.rehearse(subject)
        header = plan.header(subject, model_sha256, name, command)
        # a search in low precision would stop at wins that full precision does not confirm
        precise = torch.autocast(subject.device.type, enabled=False)
        with precise, _opened(header, subject, out, resume, save_adversarial) as (ledger, images):
            course = Course(ledger, images, room, clock, progress)
            confirm_model(subject, course)
            labels = [entry.label for entry in plan.entries]
            forget_unfounded(subject, course, labels, save_adversarial)
            clean_pass(subject, course)
            if verifier is not None:
                certify(subject, course, verifier, threats[0])
            _attack(subject, course, plan.entries, full)
            return _report(subject, course, save_adversarial)


def _attack(subject: Subject, course: Course, planned: Sequence[Entry], full: bool | None) -> None:
    """The cascade, and the reserve after it where a red flag or the caller asks for it."""
    base = [entry for entry in planned if not entry.reserve]
    cascade(subject, course, base)
    probe(subject, course, base)
    ledger = course.ledger
    if full is None or len(base) == len(planned) or course.clock.over():
        return
    if full or alarms(ledger.header, ledger.records):
        cascade(subject, course, planned)


def _chosen(
    suite: Chosen, threats: Sequence[AnyThreat], quantised: bool, terms: Terms
) -> tuple[Entry, ...]:
    """The members to run; raises InputError for threats nobody can evaluate."""
    if not threats:
        raise InputError("no threat", "at least one", "pass Threat(Linf(), 8/255)")
    for ball in map(bounded, threats):
        if quantised and ball.eps < 1 / 255 and not ball.norm.least:
            raise InputError(
                f"eps = {ball.eps:.4g} with quantised=True",
                "eps >= 1/255, because no other 8-bit image is that near",
                "drop quantised, or choose a larger eps",
            )
    found = entries(suite, threats, terms)
    return tuple(replace(e, member=e.member.rounded()) for e in found) if quantised else found


@contextmanager
def _opened(
    header: Header, subject: Subject, out: Path | str | None, resume: bool, keep: bool
) -> Iterator[tuple[Ledger, Images]]:
    """The ledger and its images, closed afterwards; images not to be kept go when all is done."""
    folder = None if out is None else Path(out)
    path = None if folder is None else folder / IMAGES
    ledger = Ledger.open(header, folder, resume)
    try:
        shape = tuple(subject.examples.x.shape[1:])
        images = Images.open(path, len(subject), shape, subject.dtype, subject.eight_bit)
        ledger.images = images
        yield ledger, images
        ledger.sync()
    finally:
        ledger.close()
    done = all(row.status != UNFINISHED for row in summarise(header, ledger.records)[1])
    if path is not None and not keep and done:
        path.unlink()


def _report(subject: Subject, course: Course, keep: bool) -> Report:
    """The report, written beside the ledger where there is a folder."""
    ledger = course.ledger
    result, rows = summarise(ledger.header, ledger.records)
    x, adversarial = subject.examples.x, _adversarial(subject, course, rows)
    report = Report(result, rows, x, adversarial)
    if ledger.folder is not None:
        (report if keep else Report(result, rows)).save(ledger.folder)
    return report


def _adversarial(subject: Subject, course: Course, rows: Sequence[Example]) -> Tensor | None:
    """The clean images with those of the broken examples in place; None where one is gone."""
    broken = [row for row, example in enumerate(rows) if example.status == BROKEN]
    records, images = course.ledger.records, course.images
    for row in broken:
        if records[rows[row].id][rows[row].broken_by]["image"] != images.checksum(row):
            return None
    whole = subject.examples.x.clone()
    if broken:
        whole[broken] = images.read(broken).to(whole)
    return whole
