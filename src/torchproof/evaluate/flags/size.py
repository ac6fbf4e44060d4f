"""Flags about evaluations that are smaller than what they claim."""

from __future__ import annotations

import statistics

from torchproof.core.metrics import clopper_pearson
from torchproof.evaluate.flags.flag import NOTE, WARNING, Evidence, Verdict
from torchproof.evaluate.member import CLEAN
from torchproof.evaluate.outcome import BROKEN, ROBUST

_WIDTH = 0.5  # of the 95 % interval
_LEAST = 40  # forward plus backward samples: those of PGD-20


def few_examples(evidence: Evidence) -> Verdict:
    """Does the interval of robust accuracy leave nearly everything open?"""
    held = sum(row.clean and row.status != BROKEN for row in evidence.rows)
    text = left_open(held, len(evidence.rows))
    return None if text is None else (NOTE, text)


def left_open(held: int, n: int) -> str | None:
    """What to say where `held` robust ones of n examples are too few for a narrow interval."""
    low, high = clopper_pearson(held, n)
    if high - low <= _WIDTH:
        return None
    return (
        f"with {n} examples the 95 % interval of robust accuracy goes from {low:.0%} to {high:.0%}"
    )


def small_budget(evidence: Evidence) -> Verdict:
    """Were robust examples attacked less than by PGD-20, or never with gradients?"""
    robust = [row for row in evidence.rows if row.status == ROBUST]
    if not robust:
        return None
    draws = evidence.header.settings.get("draws", 1)
    spent = statistics.median(
        (row.forward + row.backward - evidence.records[row.id][CLEAN]["forward"]) / draws
        for row in robust
    )
    if spent < _LEAST:
        return WARNING, (
            f"half of the {len(robust)} robust examples were attacked with at most {spent:.0f} "
            "evaluations; PGD-20, a first look, takes 41"
        )
    if all(set(row.budget.split(";")) <= evidence.blind for row in robust):
        return WARNING, "no attack with gradients was run: robustness was measured grey-box only"
    return None
