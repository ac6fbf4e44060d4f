"""Flags about the search: stopped too early, or blind to what it found."""

from __future__ import annotations

import statistics

from torchproof.evaluate.flags.flag import SEVERE, WARNING, Evidence, Verdict, ids_of

LATE = 0.4  # share of all progress that a converged search does not leave to its second half
_ENOUGH = 3  # examples


def more_steps(evidence: Evidence) -> Verdict:
    """Does an attack of the suite win with twice the steps and a new start?"""
    asked = evidence.probes("longer", standing=True)
    won = [record for record in asked if record["longer"]]
    if len(won) < _ENOUGH:
        return None
    return (SEVERE if len(won) >= 0.2 * len(asked) else WARNING), (
        f"{_names(won)} breaks {len(won)} of {len(asked)} examples that the suite left standing: "
        f"ids {ids_of(won)}"
    )


def incomplete(evidence: Evidence) -> Verdict:
    """Does the margin still rise in the second half of a run with twice the steps?"""
    asked = evidence.probes("late", standing=True)
    if len(asked) < _ENOUGH:
        return None
    share = statistics.median(record["late"] for record in asked)
    if share <= LATE:
        return None
    return SEVERE, (
        f"{_names(asked)} makes {share:.0%} of its progress in the second half (the median of "
        f"{len(asked)} examples left standing): the suite stops while the margin still rises"
    )


def silent(evidence: Evidence) -> Verdict:
    """Did an attack pass over an adversarial example, and report failure?"""
    asked = evidence.probes("silent", standing=True)
    passed = [record for record in asked if record["silent"]]
    if not passed:
        return None
    return SEVERE, (
        f"{_names(passed)} asked about an adversarial image inside the set and reported failure "
        f"for {len(passed)} of {len(asked)} examples: ids {ids_of(passed)}"
    )


def rejected(evidence: Evidence) -> Verdict:
    """Are the worst points misclassified, and all turned away?"""
    labels = {row.id: row.label for row in evidence.rows}
    asked = evidence.probes("answer", standing=True)
    away = [record for record in asked if record["answer"] != labels[record["id"]]]
    if len(away) < max(_ENOUGH, 0.5 * len(asked)):
        return None
    return SEVERE, (
        f"for {len(away)} of {len(asked)} examples left standing the worst point found has lost "
        f"its class, but that does not count as a win: ids {ids_of(away)}"
    )


def _names(records: list[dict[str, object]]) -> str:
    """The attacks that were run again, with the number of their steps."""
    found = sorted({(str(r["by"]), int(str(r["steps"]))) for r in records})
    return " and ".join(f"{name} with {steps} steps" for name, steps in found)
