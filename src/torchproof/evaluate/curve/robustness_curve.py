"""`robustness_curve`: accuracy against eps from one minimum-norm run, checked at a few eps.

A minimum-norm attack finds one distance per example, and with it the accuracy at every eps at once.
Attacks at a fixed eps are an independent check: where they break an example that the curve leaves
standing, the curve is an upper bound there, says so, and is corrected by the smaller distance.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from torchproof.attack.combine import Attack
from torchproof.attack.minimum import MinimumNorm
from torchproof.core.norms import Norm
from torchproof.core.room import Room
from torchproof.core.sites import Model
from torchproof.core.threats import Threat
from torchproof.evaluate.clean import clean_pass, confirm_model
from torchproof.evaluate.course import Clock, Course, Progress
from torchproof.evaluate.curve.checks import Check, radii
from torchproof.evaluate.curve.distances import Measure, rows_of
from torchproof.evaluate.curve.plan import CurvePlan
from torchproof.evaluate.curve.record import RobustnessCurve, summarise
from torchproof.evaluate.evaluation import evaluate
from torchproof.evaluate.images import Images
from torchproof.evaluate.ledger import Header, Ledger
from torchproof.evaluate.subject import Subject, examples_of

CHECKS = "checks"  # the folder of the fixed-budget evaluations


def robustness_curve(
    model: Model, data: Any, norm: Norm, attack: Attack | None = None,
    check: Sequence[float] | None = None, *, suite: str = "fast", max_eps: float | None = None,
    seed: int = 0, n: int | None = None, slots: int = 128, out: Path | str | None = None,
    resume: bool = False, max_seconds: float | None = None,
    progress: Callable[[Progress], None] | None = None, name: str | None = None,
    data_name: str | None = None, model_sha256: str | None = None,
    data_sha256: str | None = None, command: str | None = None,
) -> RobustnessCurve:  # fmt: skip
    """Accuracy against eps (input units) on the first n examples, with pointwise 95 % bands.

    attack: made with `Unlimited(norm)`, by default `plan.nearest`; check: the eps of the
    fixed-budget evaluations with `suite`, by default those at which a quarter, half and three
    quarters of the correct examples have fallen, () for none; max_eps: where the curve ends, by
    default at the largest distance; out: a folder for curve.json, distances.csv and the ledgers,
    where other eps may be checked later with resume=True. The rest as in `evaluate`. No distance
    depends on slots or resumption, but for float noise. Raises InputError, ModelError, UnknownName,
    FileError and ResumeError.
    """
    plan = CurvePlan.of(norm, attack, check, suite, max_eps)
    folder, clock, room = None if out is None else Path(out), Clock(max_seconds), Room(slots)
    with torch.inference_mode(False):
        examples = examples_of(data, n, None, data_name, data_sha256)
        subject = Subject.of(model, examples, seed, False)
        header = plan.header(subject, model_sha256, name, command)
        ledger = _measured(subject, header, plan, folder, resume, room, clock, progress)
        checks: list[Check] = []
        missing = radii(rows_of(header, ledger, plan.name), plan)
        while missing and not clock.over():
            eps = missing.pop(0)
            report = evaluate(
                model, (examples.x, examples.y), Threat(norm, eps), suite, seed=seed, slots=slots,
                out=None if folder is None else folder / CHECKS / f"{suite}-{eps:.6g}",
                resume=resume, max_seconds=_left(clock), progress=progress, save_adversarial=False,
                name=header.about["model"], data_name=examples.name,
                model_sha256=header.settings["model_sha256"], data_sha256=examples.sha256,
                command=header.about["command"],
            )  # fmt: skip
            checks.append(Check(eps, report))
        found = summarise(ledger, plan, checks, missing)
        if folder is not None:
            found.save(folder)
        return found


def _measured(
    subject: Subject, header: Header, plan: CurvePlan, folder: Path | None, resume: bool,
    room: Room, clock: Clock, progress: Callable[[Progress], None] | None,
) -> Ledger:  # fmt: skip
    """The ledger of the minimum-norm run, closed; distances are kept, images are not."""
    ledger = Ledger.open(header, folder, resume)
    try:
        nothing = Images.open(None, 0, tuple(subject.examples.x.shape[1:]), subject.dtype, False)
        course = Course(ledger, nothing, room, clock, progress)
        with torch.autocast(subject.device.type, enabled=False):
            confirm_model(subject, course)
            clean_pass(subject, course)
            Measure(subject, course, MinimumNorm(plan.attack), plan.threat).run()
        ledger.sync()
    finally:
        ledger.close()
    return ledger


def _left(clock: Clock) -> float | None:
    """Seconds that are left; a moment where there are none, and the check says so itself."""
    if clock.limit is None:
        return None
    return max(clock.limit - (time.monotonic() - clock.started), 1e-3)
