"""`compare`: one threat and one attack through several libraries, judged alike."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torchproof.compare.attempt import Attempt, attempt
from torchproof.compare.autoattack import source
from torchproof.compare.differences import Verdict, differences, judged, missed
from torchproof.compare.libraries import LIBRARIES
from torchproof.compare.library import Library, Offer, Plan
from torchproof.compare.record import Comparison, LibraryRecord
from torchproof.core.errors import InputError, unknown
from torchproof.core.fingerprints import model_sha256 as weights_sha256
from torchproof.core.metrics import clopper_pearson
from torchproof.core.norms import name_of
from torchproof.core.sites import Model
from torchproof.core.threats import Threat, eps_text
from torchproof.evaluate.identity import called, now
from torchproof.evaluate.subject import Subject, examples_of
from torchproof.evaluate.versions import versions


def compare(
    model: Model, data: Any, threat: Threat, attack: str = "apgd-ce",
    libraries: Sequence[str] = tuple(LIBRARIES), *,
    seed: int = 0, n: int | None = None, slots: int = 128, steps: int | None = None,
    matched: bool = True, autoattack: Path | str | None = None,
    progress: Callable[[str], None] | None = None, name: str | None = None,
    data_name: str | None = None, model_sha256: str | None = None,
    data_sha256: str | None = None, command: str | None = None,
) -> Comparison:  # fmt: skip
    """The robust accuracy that each library finds on the first n examples, and where they differ.

    Every library gets the correctly classified examples, `slots` at a time, and the same settings;
    with matched=False those that it would use by itself. Each returned point is judged here: it has
    to lie in ball and box and to be misclassified. steps: of the attack (queries for square);
    autoattack: the folder with AutoAttack's source; progress is told each library's name. A library
    that does not load, does not offer the attack or fails is in the result, with the reason.

    Raises InputError, ModelError, UnknownName and FileError (the folder of AutoAttack).
    """
    _check(libraries)
    examples = examples_of(data, n, None, data_name, data_sha256)
    subject = Subject.of(model, examples, seed, False)
    folder = None if autoattack is None else Path(autoattack)
    with torch.inference_mode(False), source(folder):
        right, classes = _clean(subject, slots)
        plan = Plan(attack, threat, classes, seed, slots, subject.device, steps, matched)
        rows = right.nonzero()[:, 0].tolist()
        if not rows:
            given = f"a model that classifies none of {len(subject)} images correctly"
            remedy = "look at the labels, and at the range of values that the model expects"
            raise InputError(given, "something left to attack", remedy)
        records: list[LibraryRecord] = []
        verdicts: dict[str, Verdict] = {}
        for library in (LIBRARIES[key] for key in libraries):
            if progress is not None:
                progress(library.name)
            record, verdict = _one(library, plan, subject, rows)
            records.append(record)
            verdicts |= {} if verdict is None else {library.name: verdict}
    who = called(model, name)
    call = f"torchproof.compare.compare({who}, {examples.name}, {threat}, {attack!r}, ...)"
    about = {
        "model": who,
        "model_sha256": model_sha256 or weights_sha256(model),
        "command": command or call,
    }
    return _whole(plan, subject, rows, records, verdicts, about)


def _whole(
    plan: Plan,
    subject: Subject,
    rows: list[int],
    records: list[LibraryRecord],
    verdicts: dict[str, Verdict],
    about: dict[str, Any],
) -> Comparison:
    """What the libraries found, put together; `rows` are the correctly classified examples."""
    examples, threat = subject.examples, plan.threat
    ids, labels = examples.ids[rows], examples.y[rows]
    found = differences(verdicts, ids, labels)
    for record in records:
        record.missed = missed(record.name, found)
    total, correct = len(subject), len(rows)
    return Comparison(
        **about,
        date=now(),
        data=examples.name,
        data_sha256=examples.sha256,
        n=total,
        norm=name_of(threat.norm),
        eps=threat.eps,
        eps_text=eps_text(threat.eps),
        attack=plan.attack,
        matched=plan.matched,
        seed=plan.seed,
        batch=plan.batch,
        device=str(plan.device),
        clean_accuracy=correct / total,
        clean_accuracy_ci95=clopper_pearson(correct, total),
        union_robust_accuracy=_union(verdicts, correct) / total,
        libraries=records,
        differences=found,
        standing={k: ids[~v.broken.cpu()].tolist() for k, v in verdicts.items()},
        versions=versions(),
    )


def _check(libraries: Sequence[str]) -> None:
    for key in libraries:
        if key not in LIBRARIES:
            raise unknown("library", key, LIBRARIES)
    if not libraries or len(set(libraries)) < len(libraries):
        remedy = "name each library once"
        raise InputError(f"libraries {list(libraries)}", "at least one, none twice", remedy)


def _clean(subject: Subject, slots: int) -> tuple[Tensor, int]:
    """(N,) which examples are classified correctly, and the number of classes."""
    rows = torch.split(torch.arange(len(subject)), slots)
    with subject.asked("clean") as ask, torch.no_grad():
        answers = [ask(subject.rows(part.tolist())[0]).cpu() for part in rows]
    z = torch.cat(answers)
    return z.argmax(1) == subject.examples.y.cpu(), z.shape[1]


def _one(
    library: Library, plan: Plan, subject: Subject, rows: list[int]
) -> tuple[LibraryRecord, Verdict | None]:
    """What one library makes of the examples; whatever it raises becomes a reason."""
    offers = _loaded(library, plan)
    if isinstance(offers, Exception):
        why = f"{type(offers).__name__}: {offers}"
        reason = f"{why}; {library.remedy}" if library.remedy else why
        return LibraryRecord(name=library.name, status="not loaded", reason=reason), None
    known = {"name": library.name, "version": library.release()}
    if plan.attack not in offers:
        reason = f"it has no {plan.attack} for {name_of(plan.threat.norm)}"
        return LibraryRecord(**known, status="not offered", reason=reason), None
    offer = offers[plan.attack]
    known["settings"] = offer.told(plan)
    found = _tried(library, offer, plan, subject, rows)
    if isinstance(found, Exception):
        reason = f"{type(found).__name__}: {found}"
        return LibraryRecord(**known, status="failed", reason=reason), None
    x, y = subject.rows(rows)
    with subject.asked("judge") as ask:
        verdict = judged(ask, subject.model, plan, x, y, found)
    broken, total = int(verdict.broken.sum()), len(subject)
    held = len(rows) - broken
    record = LibraryRecord(
        **known,
        status="ok",
        robust_accuracy=held / total,
        robust_accuracy_ci95=clopper_pearson(held, total),
        broken=broken,
        outside=int((~verdict.allowed).sum()),
        forward=found.forward,
        backward=found.backward,
        seconds=found.seconds,
    )
    return record, verdict


def _loaded(library: Library, plan: Plan) -> dict[str, Offer] | Exception:
    """What it offers, or why it does not load."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return library.offers(plan)
    except Exception as error:  # a broken optional package may raise anything, not ImportError
        return error


def _tried(
    library: Library, offer: Offer, plan: Plan, subject: Subject, rows: list[int]
) -> Attempt | Exception:
    """What it found, or what it raised."""
    x, y = subject.rows(rows)
    try:
        _warmed(library, plan, subject, rows[:1])
        return attempt(library, offer, plan, subject.model, x, y)
    except Exception as error:  # other people's code
        return error


def _warmed(library: Library, plan: Plan, subject: Subject, rows: list[int]) -> None:
    """Two steps on one example, so that first calls are paid for before time is measured."""
    short = replace(plan, steps=2, matched=True)
    if plan.attack == "autoattack":  # whose first calls are nothing to the rest
        return
    with suppress(Exception):  # the real run will tell
        x, y = subject.rows(rows)
        attempt(library, library.offers(short)[plan.attack], short, subject.model, x, y)


def _union(verdicts: dict[str, Verdict], correct: int) -> int:
    """How many examples no library broke."""
    if not verdicts:
        return correct
    return int((~torch.stack([v.broken for v in verdicts.values()]).any(0)).sum())
