"""Adversarial images read back from where they are stored, and judged in full precision."""

from __future__ import annotations

import torch
from torch import Tensor

from torchproof.attack.regional import Regions
from torchproof.attack.untouched import home
from torchproof.core.room import in_batches
from torchproof.core.sets import TOLERANCE, Ball
from torchproof.core.sites import Model
from torchproof.core.threats import AnyThreat, Region
from torchproof.evaluate.course import Course
from torchproof.evaluate.ledger import Record
from torchproof.evaluate.subject import Subject


def named(label: str) -> str:
    """The ledger's name for the re-check of what an attack found."""
    return f"recheck {label}"


def recheck(subject: Subject, course: Course, label: str, threat: AnyThreat) -> None:
    """Records for every image that `label` found, and that has no verdict yet, whether it holds.

    It does when its stored form lies in the ball and in the box and is misclassified by the model
    (in a targeted evaluation: as the target), asked in full precision outside autocast. Always
    carried through, even when the time is up.
    """
    ids, done = subject.examples.ids.tolist(), named(label)
    ledger = course.ledger
    todo = [
        row
        for row, i in enumerate(ids)
        if ledger.of(i).get(label, {}).get("lost") and done not in ledger.of(i)
    ]
    course.clock.lap()

    def work(rows: list[int]) -> None:
        records = _verdicts(subject, course, rows, threat)
        seconds = course.clock.lap() / len(rows)
        ledger.add([record | {"attack": done, "seconds": seconds} for record in records])

    in_batches(todo, course.room, lambda: False, work)


def _verdicts(subject: Subject, course: Course, rows: list[int], threat: AnyThreat) -> list[Record]:
    x, _ = subject.rows(rows)
    stored = course.images.read(rows).to(subject.device)
    with subject.asked("recheck") as ask, torch.inference_mode():
        prediction = ask(stored).argmax(1)
    inside = allowed(threat, subject.model, x, stored)
    found = zip(
        subject.examples.ids[rows].tolist(),
        prediction.tolist(),
        inside.tolist(),
        (inside & subject.won(rows, prediction)).tolist(),
        strict=True,
    )
    return [{"id": i, "prediction": p, "inside": fits, "ok": ok} for i, p, fits, ok in found]


def allowed(threat: AnyThreat, model: Model, x: Tensor, stored: Tensor) -> Tensor:
    """(R,) bool: is the stored image in the set around x, measured in float64?

    Tolerated are the rounding of x + delta to the stored type, coordinate by coordinate, and the
    engine's own float noise, relative to the radius.
    """
    noise = torch.finfo(x.dtype).eps / 2  # of a sum in [0, 1]: rounding moves it by less than this
    relative = TOLERANCE if x.dtype == torch.float32 else 1e-9
    delta = stored.double() - x.double()
    ball = settled(threat, model, x).set(model, x.double())
    assert isinstance(ball, Ball), "evaluations are about balls around single inputs"
    shrunk = delta.sign() * (delta.abs() - noise).clamp_min(0)
    fits = ball.norm.length(shrunk) <= ball.radius * (1 + relative)
    boxed = (delta >= ball.low - noise) & (delta <= ball.high + noise)
    return fits & boxed.flatten(1).all(1) & _valid(stored)


def settled(threat: AnyThreat, model: Model, x: Tensor) -> AnyThreat:
    """The threat around these images: what asks the model, or reads the pixels, where they may
    change, does so in the type of x as the attack did, and not in one that is more precise.
    """
    if not isinstance(threat, Regions):
        return threat
    return Region(threat.threat, threat.mask(model, x.to(home(model, x.device))))


def _valid(stored: Tensor) -> Tensor:
    flat = stored.flatten(1)
    return ((flat >= 0) & (flat <= 1)).all(1)  # NaN is neither
