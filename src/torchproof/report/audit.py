"""What the report checks for itself: that the files agree, and the images lie in their ball."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from torchproof.core.metrics import clopper_pearson
from torchproof.evaluate.outcome import CERTIFIED, Example
from torchproof.report import numbers
from torchproof.report.evaluation import Evaluation, Images, broken, held
from torchproof.report.gallery import length

SLACK = 1e-5  # relative; adversarial images are stored in float32


@dataclass(frozen=True)
class Check:
    """`passed` is None where the files for it are not there."""

    what: str
    passed: bool | None
    evidence: str


def audit(evaluation: Evaluation) -> list[Check]:
    """All checks of one evaluation, in the order of the files they read."""
    return [
        _interval(evaluation),
        _cascade(evaluation),
        _table(evaluation),
        *_standing(evaluation),
        _images(evaluation),
    ]


def _interval(evaluation: Evaluation) -> Check:
    share = evaluation.robust
    exact = clopper_pearson(share.hits, share.n, numbers.LEVEL)
    off = max(abs(exact[0] - share.low), abs(exact[1] - share.high))
    what = "the stated interval is the exact one of Clopper and Pearson"
    return Check(what, off < 1e-6, f"{share.hits} of {share.n}, compared to six decimals")


def _cascade(evaluation: Evaluation) -> Check:
    what = "clean minus broken examples leaves the robust ones, attack by attack"
    left = evaluation.clean.hits
    for attack in evaluation.result.attacks:
        left -= attack.broken
        stated = round(attack.robust_accuracy * evaluation.n)
        if stated != left:
            return Check(what, False, f"after {attack.name}: {left} counted, {stated} stated")
    robust = evaluation.robust.hits
    return Check(what, left == robust, f"{left} left after the last attack, {robust} stated")


def _table(evaluation: Evaluation) -> Check:
    what = "examples.csv counts the same clean and robust examples as result.json"
    examples = evaluation.examples
    if examples is None:
        return Check(what, None, "examples.csv was not found")
    counted = _tally(examples)
    stated = (evaluation.n, evaluation.clean.hits, evaluation.robust.hits)
    words = "{} rows, {} clean, {} robust"
    evidence = words.format(*counted)
    if counted != stated:
        evidence += "; result.json says " + words.format(*stated)
    return Check(what, counted == stated, evidence)


def _tally(examples: Iterable[Example]) -> tuple[int, int, int]:
    count = clean = robust = 0
    for example in examples:
        count, clean, robust = count + 1, clean + example.clean, robust + held(example)
    return count, clean, robust


def _standing(evaluation: Evaluation) -> list[Check]:
    """Only where a verifier was asked: the counts of the examples, and the order of the shares."""
    stated, examples = evaluation.standing, evaluation.examples
    if not stated:
        return []
    counts = {part.name: part.hits for part in stated}
    low, high = evaluation.result.certified_accuracy or 0.0, evaluation.result.robust_accuracy
    ordered = low <= high and round(low * evaluation.n) == counts[CERTIFIED]
    order = Check(
        "certified accuracy is at most robust accuracy, and what the certified examples are of all",
        ordered and sum(counts.values()) == evaluation.n,
        f"{counts[CERTIFIED]} of {evaluation.n} certified, {evaluation.robust.hits} robust",
    )
    what = "examples.csv counts the same certified, undecided and broken examples"
    if examples is None:
        return [order, Check(what, None, "examples.csv was not found")]
    counted = Counter(example.certificate for example in examples)
    evidence = ", ".join(f"{counted[name]} {name}" for name in counts if counted[name])
    return [order, Check(what, counted == Counter(counts), evidence)]


def _images(evaluation: Evaluation) -> Check:
    what = "every saved adversarial image lies in [0, 1] and in the ball of its threat"
    images, examples = evaluation.images, evaluation.examples
    if images is None or examples is None:
        return Check(what, None, "adversarial.npz or examples.csv was not found")
    rows = images.rows()
    saved = [rows[example.id] for example in examples if broken(example) and example.id in rows]
    outside = [row for row in saved if not _allowed(evaluation, images, row)]
    lost = sum(broken(example) for example in examples) - len(saved)
    evidence = f"{len(saved)} images of broken examples, {len(outside)} outside"
    return Check(what, not outside and not lost, evidence + (f", {lost} missing" if lost else ""))


def _allowed(evaluation: Evaluation, images: Images, row: int) -> bool:
    """In the box, and in the ball of one of the threats (a union is broken by any of them)."""
    x_adv = images.x_adv[row].astype(np.float64)
    delta = x_adv - images.x[row]
    if not np.isfinite(x_adv).all() or x_adv.min() < 0 or x_adv.max() > 1:
        return False
    return any(
        length(delta, threat.norm) <= (threat.eps or 0) * (1 + SLACK) + 1e-6
        for threat in evaluation.threats
    )
