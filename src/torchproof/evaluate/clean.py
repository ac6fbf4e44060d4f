"""The clean pass: one forward per example, and on a sample two questions about the model."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from torchproof.core import keys
from torchproof.core.errors import ResumeError
from torchproof.core.objectives import margin
from torchproof.core.room import in_batches
from torchproof.evaluate.course import Course
from torchproof.evaluate.ledger import Record
from torchproof.evaluate.subject import Subject

CLEAN = "clean"
PROBED = 128  # examples that are asked twice and for a gradient
CONFIRMED = 32  # examples that are asked again before a run is resumed
MOVED = 1e-4  # of the largest logit: beyond what batched sums differ by in float32
_SIMPLEX = 1e-3  # how far a row of probabilities may be from summing to one

Ask = Callable[[Tensor], Tensor]


def clean_pass(subject: Subject, course: Course) -> None:
    """Records prediction and size of the logits for every example that has no record yet.

    Raises ModelError for logits that are not finite or of a wrong shape, naming the rows.
    """
    ids = subject.examples.ids.tolist()
    todo = [row for row, i in enumerate(ids) if CLEAN not in course.ledger.of(i)]
    probed = set(_sample(subject.examples.ids, subject.examples.total).nonzero()[:, 0].tolist())
    done = len(ids) - len(todo)
    course.clock.lap()

    def work(rows: list[int]) -> None:
        nonlocal done
        with subject.asked(CLEAN) as ask:
            records = _judged(subject, ask, rows)
            for row, more in _probed(subject, ask, [r for r in rows if r in probed]).items():
                records[rows.index(row)].update(more)
        seconds = course.clock.lap() / len(rows)
        course.ledger.add([record | {"seconds": seconds} for record in records])
        done += len(rows)
        course.tell(CLEAN, done, len(ids), 0)

    in_batches(todo, course.room, course.clock.over, work)


def confirm_model(subject: Subject, course: Course) -> None:
    """Raises ResumeError when the model answers otherwise than in the records of the run that is
    resumed: weights alone do not tell two models apart.
    """
    ledger, ids = course.ledger, subject.examples.ids.tolist()
    known = [row for row, i in enumerate(ids) if CLEAN in ledger.of(i)][:CONFIRMED]
    if not known:
        return
    stored = [ledger.of(ids[row])[CLEAN] for row in known]
    if any(record.get("moved", 0.0) > MOVED * record["scale"] for record in stored):
        return  # a random model answers otherwise each time, and is flagged for it
    with subject.asked(CLEAN) as ask:
        now = _judged(subject, ask, known)
    changed = [
        old["id"]
        for old, new in zip(stored, now, strict=True)
        if abs(old["scale"] - new["scale"]) > 1e-3 * old["scale"]
    ]
    if changed:
        raise ResumeError(
            f"a model that answers otherwise than when the run was started (examples {changed})",
            "the same model",
            "evaluate the changed model into another folder",
        )


def _sample(ids: Tensor, total: int) -> Tensor:
    """(N,) bool: all examples, or about `PROBED` of many, chosen by id, whatever the shard."""
    chance = keys.uniform(keys.mix("probe", ids), 0, (), dtype=torch.float64)
    return chance < PROBED / total


def _judged(subject: Subject, ask: Ask, rows: list[int]) -> list[Record]:
    x, _ = subject.rows(rows)
    with torch.inference_mode():
        z = ask(x)
        simplex = (z >= 0).all(1) & ((z.double().sum(1) - 1).abs() < _SIMPLEX)
        found = zip(
            subject.examples.ids[rows].tolist(),
            z.argmax(1).tolist(),
            z.abs().amax(1).tolist(),
            simplex.tolist(),
            strict=True,
        )
    return [
        {
            "id": i,
            "attack": CLEAN,
            "prediction": prediction,
            "scale": scale,
            "simplex": simplex,
            "forward": 1,
            "backward": 0,
        }
        for i, prediction, scale, simplex in found
    ]


def _probed(subject: Subject, ask: Ask, rows: list[int]) -> dict[int, Record]:
    """Per row: by how much two answers differ (`moved`), is the margin's gradient zero (`flat`)?"""
    if not rows:
        return {}
    x, y = subject.rows(rows)
    with torch.inference_mode():
        moved = (ask(x) - ask(x)).abs().amax(1).tolist()
    with torch.enable_grad():
        live = x.clone().requires_grad_()
        top = margin(ask(live), y).sum()
    grad = torch.zeros_like(x)
    if top.requires_grad:
        (grad,) = torch.autograd.grad(top, [live], materialize_grads=True)
    flat = (grad == 0).flatten(1).all(1).tolist()
    found = zip(rows, moved, flat, strict=True)
    return {row: {"moved": m, "flat": f} for row, m, f in found}
