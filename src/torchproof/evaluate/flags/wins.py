"""Flags about who wins: a weaker attack where stronger ones failed."""

from __future__ import annotations

from torchproof.evaluate.flags.flag import SEVERE, WARNING, Evidence, Verdict, ids_of, listed
from torchproof.evaluate.member import CERTIFICATE

_FEW = 2  # weaker attacks may be lucky on so many examples


def gradient_free(evidence: Evidence) -> Verdict:
    """Did attacks without gradients break what those with gradients had left?"""
    blind, n = evidence.blind, len(evidence.rows)
    found = [
        row
        for row in evidence.rows
        if row.broken_by in blind and set(row.budget.split(";")) - blind
    ]
    if len(found) <= max(_FEW, 0.005 * n):
        return None
    attacks = ", ".join(sorted({row.broken_by for row in found}))
    return (SEVERE if len(found) > max(_FEW, 0.02 * n) else WARNING), (
        f"{attacks} broke {len(found)} of {n} examples that every attack with gradients before it "
        f"had left: ids {listed(row.id for row in found)}"
    )


def noise(evidence: Evidence) -> Verdict:
    """Does random noise inside the set break what every attack left?"""
    return _weaker(evidence, "noise", "random noise inside the set breaks")


def single_step(evidence: Evidence) -> Verdict:
    """Does one step along the gradient break what every attack left?"""
    return _weaker(evidence, "single", "one step along the gradient of the margin breaks")


def _weaker(evidence: Evidence, question: str, text: str) -> Verdict:
    asked = evidence.probes(question, standing=True)
    won = [record for record in asked if record[question]]
    if len(won) < _FEW:
        return None
    return (SEVERE if len(won) > max(_FEW, 0.1 * len(asked)) else WARNING), (
        f"{text} {len(won)} of {len(asked)} examples that the suite left standing: "
        f"ids {ids_of(won)}"
    )


def unbounded(evidence: Evidence) -> Verdict:
    """Does an attack with gradients fail even where every image is allowed?"""
    asked = evidence.probes("beyond", standing=True)
    failed = [record for record in asked if not record["beyond"]]
    if len(failed) < max(_FEW, 0.1 * len(asked)):
        return None
    return SEVERE, (
        f"PGD that may change every pixel to any value fails on {len(failed)} of {len(asked)} "
        f"examples that the suite left standing: ids {ids_of(failed)}"
    )


def refuted(evidence: Evidence) -> Verdict:
    """Was an example broken that a verifier had certified?"""
    sure = {i for i, of in evidence.records.items() if of.get(CERTIFICATE, {}).get("certified")}
    found = [row for row in evidence.rows if row.id in sure and row.broken_by]
    if not found:
        return None
    return SEVERE, (
        f"{len(found)} of {len(sure)} certified examples were broken by "
        f"{', '.join(sorted({row.broken_by for row in found}))}: ids "
        f"{listed(row.id for row in found)}"
    )
