"""Flags about gradients: absent, not finite, or no better than noise."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

from torchproof.evaluate.flags.flag import (
    NOTE,
    SEVERE,
    WARNING,
    Evidence,
    Verdict,
    ids_of,
    listed,
)
from torchproof.evaluate.ledger import Record
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
    met = {
        row.id: sum(
            evidence.records.get(row.id, {}).get(name, {}).get("undefined", 0)
            for name in evidence.attacks
        )
        for row in evidence.rows
    }
    standing = {row.id for row in evidence.rows if row.status != BROKEN}
    found = undefined_in(evidence.clean("undefined"), met, standing)
    return _in_probes(evidence) if found is None else found


def undefined_in(
    clean: Sequence[Record], met: Mapping[int, int], standing: Container[int]
) -> Verdict:
    """The verdict on clean records that were asked for a gradient, and on how many undefined ones
    attacks `met` at each example; `standing`: those that no attack broke.
    """
    found = [v for v in (_at_clean(clean), _in_attacks(met, standing)) if v is not None]
    if not found:
        return None
    severe = any(severity == SEVERE for severity, _ in found)
    return (SEVERE if severe else WARNING), "; ".join(text for _, text in found)


def _at_clean(asked: Sequence[Record]) -> Verdict:
    bad = [record for record in asked if record["undefined"]]
    if not bad:
        return None
    return SEVERE, (
        f"the gradient is NaN or infinite at {len(bad)} of {len(asked)} clean images: "
        f"ids {ids_of(bad)}"
    )


def _in_attacks(met: Mapping[int, int], standing: Container[int]) -> Verdict:
    """Severe where such an example was left standing: part of the search for it was blind."""
    ids = [i for i, count in met.items() if count]
    if not ids:
        return None
    return (SEVERE if any(i in standing for i in ids) else WARNING), (
        f"the attacks met gradients that were NaN or infinite, and put them to 0, in "
        f"{sum(met.values()):,} questions about {len(ids)} examples: ids {listed(ids)}"
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
