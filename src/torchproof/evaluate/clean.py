"""The clean pass: one forward per example, and on a sample a few questions about the model."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from torchproof.core.errors import ResumeError
from torchproof.core.room import in_batches
from torchproof.evaluate.course import Course
from torchproof.evaluate.ledger import Record
from torchproof.evaluate.member import CLEAN
from torchproof.evaluate.subject import Subject

PROBED = 128  # examples that are asked twice and for gradients
SAMPLED = 32  # of them, those that are asked more after the attacks (see `probes`)
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
    probed, sampled = (set(subject.examples.first(count)) for count in (PROBED, SAMPLED))
    labels = subject.examples.y
    done = len(ids) - len(todo)
    course.clock.lap()

    def work(rows: list[int]) -> None:
        nonlocal done
        with subject.asked(CLEAN) as ask:
            records = _judged(subject, ask, rows)
            for row, more in _probed(subject, ask, [r for r in rows if r in probed]).items():
                records[rows.index(row)].update(more)
        for row, record in zip(rows, records, strict=True):
            if row in sampled and _worth_asking(record, int(labels[row])):
                record["sampled"] = True
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


def _worth_asking(record: Record, label: int) -> bool:
    """Is the image classified correctly, and does the model answer the same when asked twice?"""
    return bool(record["prediction"] == label and record["moved"] <= MOVED * record["scale"])


def _judged(subject: Subject, ask: Ask, rows: list[int]) -> list[Record]:
    x, _ = subject.rows(rows)
    with torch.inference_mode():
        z = ask(x)
        known = z[:, : subject.classes]
        simplex = (known >= 0).all(1) & ((known.double().sum(1) - 1).abs() < _SIMPLEX)
        found = zip(
            subject.examples.ids[rows].tolist(),
            z.argmax(1).tolist(),
            z.abs().amax(1).tolist(),
            subject.gap(rows, z).tolist(),
            simplex.tolist(),
            strict=True,
        )
    return [
        {
            "id": i,
            "attack": CLEAN,
            "prediction": prediction,
            "scale": scale,
            "margin": gap,
            "simplex": simplex,
            "forward": getattr(subject.model, "draws", 1),
            "backward": 0,
        }
        for i, prediction, scale, gap, simplex in found
    ]


def _probed(subject: Subject, ask: Ask, rows: list[int]) -> dict[int, Record]:
    """Per row: by how much do two answers differ (`moved`), is the gradient of the margin zero
    (`flat`), that of the cross-entropy alone (`vanished`), is one of them not finite (`undefined`)?
    """
    if not rows:
        return {}
    x, y = subject.rows(rows)
    with torch.inference_mode():
        moved = (ask(x) - ask(x)).abs().amax(1).tolist()
    top, entropy = _gradients(ask, x, y, lambda z: subject.gap(rows, z))
    flat, still = ((g == 0).flatten(1).all(1) for g in (top, entropy))
    finite = torch.stack([g.isfinite().flatten(1).all(1) for g in (top, entropy)]).all(0)
    found = zip(
        rows, moved, flat.tolist(), (still & ~flat).tolist(), (~finite).tolist(), strict=True
    )
    draws = getattr(subject.model, "draws", 1)
    spent = {"probe_forward": 3 * draws, "probe_backward": 2 * draws}
    return {
        row: {"moved": m, "flat": f, "vanished": v, "undefined": u, **spent}
        for row, m, f, v, u in found
    }


def _gradients(
    ask: Ask, x: Tensor, y: Tensor, gap: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Those of the margin and of the cross-entropy in x, zero where the graph is cut."""
    with torch.enable_grad():
        live = x.clone().requires_grad_()
        z = ask(live)
        if not z.requires_grad:
            return torch.zeros_like(x), torch.zeros_like(x)
        losses = [gap(z).sum(), F.cross_entropy(z, y, reduction="sum")]
        grads = [
            torch.autograd.grad(loss, [live], retain_graph=True, materialize_grads=True)[0]
            for loss in losses
        ]
    return grads[0], grads[1]
