"""Flags about gradients: absent, not finite, or no better than noise."""

from __future__ import annotations

from torchproof.evaluate.flags.flag import (
    NOTE,
    SEVERE,
    WARNING,
    Evidence,
    Verdict,
    ids_of,
    listed,
)
from torchproof.evaluate.outcome import BROKEN


def zero(evidence: Evidence) -> Verdict:
    """Is the gradient of the margin exactly zero at clean images?"""
    asked = evidence.clean("flat")
    flat = sum(record["flat"] for record in asked)
    if not flat:
        return None
    return (SEVERE if flat >= 0.1 * len(asked) else WARNING), (
        f"the gradient of the margin is exactly zero at {flat} of {len(asked)} clean images"
    )


def undefined(evidence: Evidence) -> Verdict:
    """Is a gradient, or an answer to a probe, NaN or infinite?"""
    found = [v for v in (_at_clean(evidence), _in_attacks(evidence)) if v is not None]
    if not found:
        return _in_probes(evidence)
    severe = any(severity == SEVERE for severity, _ in found)
    return (SEVERE if severe else WARNING), "; ".join(text for _, text in found)


def _at_clean(evidence: Evidence) -> Verdict:
    asked = evidence.clean("undefined")
    bad = [record for record in asked if record["undefined"]]
    if not bad:
        return None
    return SEVERE, (
        f"the gradient is NaN or infinite at {len(bad)} of {len(asked)} clean images: "
        f"ids {ids_of(bad)}"
    )


def _in_attacks(evidence: Evidence) -> Verdict:
    """Severe where such an example was left standing: part of the search for it was blind."""
    met: dict[int, int] = {}
    standing = False
    for row in evidence.rows:
        of = evidence.records.get(row.id, {})
        count = sum(of.get(name, {}).get("undefined", 0) for name in evidence.attacks)
        if count:
            met[row.id] = count
            standing |= row.status != BROKEN
    if not met:
        return None
    return (SEVERE if standing else WARNING), (
        f"the attacks met gradients that were NaN or infinite, and put them to 0, in "
        f"{sum(met.values()):,} questions about {len(met)} examples: ids {listed(met)}"
    )


def _in_probes(evidence: Evidence) -> Verdict:
    failed = evidence.probes("failed")
    if not failed:
        return None
    questions = ", ".join(sorted({name for record in failed for name in record["failed"]}))
    inside = any(set(record["failed"]) - {"beyond"} for record in failed)
    return (WARNING if inside else NOTE), (
        f"probes ({questions}) met NaN or infinity for {len(failed)} images: ids {ids_of(failed)}"
    )


def misleading(evidence: Evidence) -> Verdict:
    """Does a step along the gradient raise the margin no more than random steps of its length?"""
    asked = evidence.probes("misled")
    misled = [record for record in asked if record["misled"]]
    if len(misled) < max(3, 0.2 * len(asked)):
        return None
    return (SEVERE if len(misled) >= 0.5 * len(asked) else WARNING), (
        f"at {len(misled)} of {len(asked)} images a step along the gradient, of the whole radius "
        "or of a quarter, raises the margin no more than the median of random steps as long: "
        f"ids {ids_of(misled)}"
    )
