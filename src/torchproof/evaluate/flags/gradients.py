"""Flags about gradients: absent, not finite, or no better than noise."""

from __future__ import annotations

from torchproof.evaluate.flags.flag import NOTE, SEVERE, WARNING, Evidence, Verdict, ids_of


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
    asked = evidence.clean("undefined")
    bad = [record for record in asked if record["undefined"]]
    if bad:
        return SEVERE, (
            f"the gradient is NaN or infinite at {len(bad)} of {len(asked)} clean images: "
            f"ids {ids_of(bad)}"
        )
    failed = evidence.probes("failed")
    if not failed:
        return None
    questions = ", ".join(sorted({name for record in failed for name in record["failed"]}))
    inside = any(set(record["failed"]) - {"beyond"} for record in failed)
    return (WARNING if inside else NOTE), (
        f"the model answered NaN or infinity to probes ({questions}) about {len(failed)} images: "
        f"ids {ids_of(failed)}"
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
