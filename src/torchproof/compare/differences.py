"""Who broke what, judged here and not by the libraries, and why another one did not."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from torchproof.compare.attempt import Attempt
from torchproof.compare.library import Plan
from torchproof.compare.record import DifferenceRecord, MissRecord
from torchproof.core.objectives import margin
from torchproof.core.sites import Model
from torchproof.evaluate.recheck import allowed

REASONS = {
    "not finite": "the returned image holds NaN or infinity",
    "outside the box": "the returned image has values outside [0, 1]",
    "outside the ball": "the returned image is further away than eps",
    "found and dropped": "it was shown an allowed adversarial point, and returned another point",
    "never moved": "it asked about nothing but the clean image: no gradient, or no attempt",
    "on the boundary": "the returned point lies within float noise of a tie",
    "found nothing": "no allowed point that it asked about was misclassified",
}
"""Why a library did not break an example, the first that applies; in the order of the table."""

_TIE = 1e-5  # of the largest logit: what float32 sums of another order differ by
_BOX = 1e-6  # beyond [0, 1]: more than float noise


@dataclass(frozen=True)
class Verdict:
    """Per example (N,): broken (allowed and misclassified), allowed, the margin at the returned
    point, the largest logit of the clean image, the length of the perturbation; `found` is what was
    judged.
    """

    broken: Tensor
    allowed: Tensor
    margin: Tensor
    scale: Tensor
    length: Tensor
    found: Attempt


def judged(
    ask: Callable[[Tensor], Tensor], model: Model, plan: Plan, x: Tensor, y: Tensor, found: Attempt
) -> Verdict:
    """Looks at every returned point: is it in ball and box, and is it misclassified?"""
    finite = found.points.flatten(1).isfinite().all(1)
    points = torch.where(finite[:, None, None, None], found.points, x)
    with torch.no_grad():
        z, clean = (
            torch.cat([ask(part) for part in torch.split(images, plan.batch)])
            for images in (points, x)
        )
    inside = finite & allowed(plan.threat, model, x, points)
    wrong = z.argmax(1) != y
    length = plan.threat.norm.length(points.double() - x.double())
    return Verdict(inside & wrong, inside, margin(z, y), clean.abs().amax(1), length, found)


def reason(verdict: Verdict, row: int) -> str:
    """The class of REASONS that says why the example of this row was not broken."""
    points = verdict.found.points[row]
    if not bool(points.isfinite().all()):
        return "not finite"
    if not bool(verdict.allowed[row]):
        beyond = bool((points < -_BOX).any() or (points > 1 + _BOX).any())
        return "outside the box" if beyond else "outside the ball"
    if float(verdict.found.best[row]) > 0:
        return "found and dropped"
    if float(verdict.found.furthest[row]) == 0:
        return "never moved"
    tie = float(verdict.margin[row].abs()) < _TIE * float(verdict.scale[row])
    return "on the boundary" if tie else "found nothing"


def differences(
    verdicts: Mapping[str, Verdict], ids: Tensor, labels: Tensor
) -> list[DifferenceRecord]:
    """One record for every example that some libraries broke and others did not."""
    if not verdicts:
        return []
    names = list(verdicts)
    broken = torch.stack([verdicts[name].broken for name in names])
    rows = (broken.any(0) & ~broken.all(0)).nonzero()[:, 0].tolist()
    return [
        DifferenceRecord(
            id=int(ids[row]),
            label=int(labels[row]),
            broken_by=[name for name in names if bool(verdicts[name].broken[row])],
            missed_by={
                name: _miss(verdicts[name], row)
                for name in names
                if not bool(verdicts[name].broken[row])
            },
        )
        for row in rows
    ]


def _miss(verdict: Verdict, row: int) -> MissRecord:
    why = reason(verdict, row)
    best, top = float(verdict.found.best[row]), float(verdict.margin[row])
    return MissRecord(
        reason=why,
        margin=None if why == "not finite" else top,
        best=best if math.isfinite(best) else None,
        length=float(verdict.length[row]),
        asked=int(verdict.found.asked[row]),
    )


def missed(name: str, found: list[DifferenceRecord]) -> dict[str, int]:
    """How many examples a library missed, by reason."""
    reasons = [d.missed_by[name].reason for d in found if name in d.missed_by]
    return {why: reasons.count(why) for why in REASONS if why in reasons}
