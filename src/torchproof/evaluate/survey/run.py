"""The survey itself: every method about every image, one after the other, each answer kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from torchproof.attack.catalogue import apgd, pgd
from torchproof.core.errors import InputError, unknown
from torchproof.core.notes import Notes
from torchproof.core.objectives import Margin
from torchproof.core.threats import Threat
from torchproof.evaluate.identity import now
from torchproof.evaluate.survey.answers import Heard, Question
from torchproof.evaluate.survey.approaches import of_kind
from torchproof.evaluate.survey.checks import ATTACK, violations
from torchproof.evaluate.survey.key import SCHEMA, Key, key_of
from torchproof.evaluate.survey.record import Survey
from torchproof.evaluate.survey.subject import Network, Subject
from torchproof.evaluate.survey.summary import cell
from torchproof.evaluate.survey.worker import Ask, asking
from torchproof.evaluate.versions import versions
from torchproof.verify.inputs import rows_of
from torchproof.verify.methods import ESTIMATES, METHODS

IN_ALL = 5  # times the seconds of an image: for all images of a network at a threat
ATTACKS = "PGD-100 (steps of eps / 50) and APGD-100 on the margin"

Say = Callable[[str], None]


def survey(
    subjects: Sequence[Subject], n: int = 20, seconds: float = 4.0, *,
    methods: Sequence[str] | None = None, out: Path | None = None, resume: bool = False,
    seed: int = 0, say: Say = lambda text: None, command: str = "",
) -> Survey:  # fmt: skip
    """Asks every method about the first n images of every subject, over one input set: the threat
    cut with the pixel box.

    seconds: for an image and a method, which is stopped then; a method that took IN_ALL times as
    long on a network at a threat is asked about no further image of it. methods: names of METHODS
    and ESTIMATES, by default those of the survey and those beyond it; a method that equals another
    is not run again. out, resume: records of a run that can go on. Raises UnknownName, InputError,
    ModelError, FileError, ResumeError.
    """
    chosen = [a.key for a in of_kind("verifier")] if methods is None else list(methods)
    _check(subjects, chosen, n, seconds)
    settings = {
        "seconds": seconds, "seed": seed, "attack": ATTACKS, "versions": versions(),
        "subjects": {s.name: s.identity() for s in subjects},
    }  # fmt: skip
    notes = Notes.open(SCHEMA, key_of, settings, out, resume)
    start = time.monotonic()
    try:
        for subject in subjects:
            _attack(subject, n, notes, seed)
            _ask(subject, n, seconds, [m for m in chosen if _own(m)], notes, say)
    finally:
        notes.close()
    pairs = [(s, threat) for s in subjects for threat in s.threats]
    return Survey(
        date=now(), n=n, seconds=seconds, in_all=IN_ALL * seconds, attack=ATTACKS,
        cells=tuple(cell(notes.records, s, threat, chosen, n, seconds) for s, threat in pairs),
        violations=tuple(
            v for s, threat in pairs for v in violations(notes.records, s.name, str(threat))
        ),
        spent=time.monotonic() - start, versions=versions(), command=command,
    )  # fmt: skip


def _check(subjects: Sequence[Subject], methods: Sequence[str], n: int, seconds: float) -> None:
    names = [s.name for s in subjects]
    if not names or len(set(names)) < len(names):
        raise InputError(f"networks {names}", "at least one, with different names", "rename them")
    for name in methods:
        if name not in METHODS and name not in ESTIMATES:
            raise unknown("verifier", name, [*METHODS, *ESTIMATES])
    if n < 1 or not seconds > 0:
        raise InputError(f"n = {n}, seconds = {seconds}", "both above 0", "n=20, seconds=4")


def _own(method: str) -> bool:
    """Is it run, and not another's equal?"""
    return method in ESTIMATES or not METHODS[method].same


def _attack(subject: Subject, n: int, notes: Notes[Key], seed: int) -> None:
    """Margins at the worst points that attacks find, in float64."""
    x, y = subject.x[:n].double(), subject.y[:n]
    ids = torch.arange(len(x))
    for threat in subject.threats:
        keys = [Key(subject.name, str(threat), ATTACK, i) for i in ids.tolist()]
        if all(key in notes.records for key in keys):
            continue
        model = Network.of(subject.load, subject.two).model
        upper = np.full((len(x), 0), np.inf)
        start = time.perf_counter()
        points = [x, *_points(model, x, y, threat, seed)]
        with torch.no_grad():
            rows = rows_of(y, model(x).shape[1]).double()
            found = [torch.einsum("bsk,bk->bs", rows, model(point)) for point in points]
        upper = torch.stack(found).amin(0).numpy()
        spent = (time.perf_counter() - start) / len(x)
        for i, key in enumerate(keys):
            right = bool((found[0][i] > 0).all())
            if key not in notes.records:
                notes.add({"key": list(key), "right": right, "upper": upper[i].tolist(),
                           "seconds": spent})  # fmt: skip


def _points(
    model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor, threat: Threat, seed: int
) -> list[torch.Tensor]:
    attacks = pgd(threat, 100, 1 / 50), apgd(threat, 100, Margin())
    found = [attack(model, x, y).value for attack in attacks]
    return [x + delta for delta in found if isinstance(delta, torch.Tensor)]


def _ask(
    subject: Subject, n: int, seconds: float, methods: Sequence[str], notes: Notes[Key], say: Say
) -> None:
    """Asks what has not been answered; a process is only started if there is something."""
    todo = [(t, m) for t in subject.threats for m in methods
            if _left(subject, t, m, n, seconds, notes)]  # fmt: skip
    if not todo:
        return
    with asking(subject) as ask:
        for threat, method in todo:
            start = time.monotonic()
            for image in _left(subject, threat, method, n, seconds, notes):
                _one(subject, threat, method, image, seconds, notes, ask)
                if not _left(subject, threat, method, n, seconds, notes):
                    break
            spent = time.monotonic() - start
            say(f"{subject.name}, {threat}, {method}: {spent:.1f} s")


def _left(
    subject: Subject, threat: Threat, method: str, n: int, seconds: float, notes: Notes[Key]
) -> list[int]:
    """The images that a method is still to be asked about: those that are classified correctly, in
    order, until its time for all of them is over or it failed.
    """
    images = range(min(n, len(subject.x)))
    of = [notes.records.get(Key(subject.name, str(threat), method, i)) for i in images]
    done = [record for record in of if record is not None]
    failed = any(record["status"] == "failed" for record in done)
    if failed or sum(record["seconds"] for record in done) >= IN_ALL * seconds:
        return []
    right = [notes.records[Key(subject.name, str(threat), ATTACK, i)]["right"] for i in images]
    return [i for i in images if of[i] is None and right[i]]


def _one(
    subject: Subject, threat: Threat, method: str, image: int, seconds: float, notes: Notes[Key],
    ask: Ask,
) -> None:  # fmt: skip
    x = subject.x[image : image + 1].double().cpu().numpy()
    y = subject.y[image : image + 1].cpu().numpy()
    heard: Heard = ask(Question(method, x, y, threat, seconds))
    told = {k: list(v) for k, v in (("lower", heard.lower), ("upper", heard.upper)) if v}
    more: dict[str, float | str] = {} if heard.radius is None else {"radius": heard.radius}
    more |= {"why": heard.why} if heard.why else {}
    finite = {k: [min(max(e, -1e300), 1e300) for e in v] for k, v in told.items()}
    times = {"seconds": round(heard.seconds, 4), "cpu": round(heard.cpu, 4)}
    key = Key(subject.name, str(threat), method, image)
    notes.add({"key": list(key), "status": heard.status, **times, **finite, **more})
