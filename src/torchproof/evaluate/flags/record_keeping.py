"""Flags about the records themselves: refuted, within float noise, missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

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
from torchproof.evaluate.member import CLEAN, PROBES
from torchproof.evaluate.outcome import ROBUST, UNFINISHED, Example
from torchproof.evaluate.recheck import named


def recheck_failed(evidence: Evidence) -> Verdict:
    """Did an attack report an image that does not hold when it is read back?"""
    verdicts = [
        (i, of[named(name)])
        for i, of in sorted(evidence.records.items())
        for name in evidence.attacks
        if named(name) in of
    ]
    failed = [(i, verdict) for i, verdict in verdicts if not verdict["ok"]]
    if not failed:
        return None
    outside = sum(not verdict["inside"] for _, verdict in failed)
    few = len(failed) == 1 or len(failed) <= 0.01 * len(verdicts)
    # averages of a randomised model differ from one another: a lucky one is refuted here
    averaged = evidence.header.settings.get("draws", 1) > 1
    return (WARNING if (few or averaged) and not outside else SEVERE), (
        f"{len(failed)} of {len(verdicts)} adversarial images did not hold when read back "
        f"({outside} outside the set, the others classified correctly) and do not count as broken: "
        f"ids {listed(i for i, _ in failed)}"
    )


def float_noise(evidence: Evidence) -> Verdict:
    """Do decisions rest on margins that another machine may compute otherwise?"""
    noise = 1e-12 if evidence.header.settings["dtype"] == "float64" else 1e-5
    # an attack that a rounding error deprives of its first win goes on to a better one, so broken
    # examples stay broken
    close = [
        row.id
        for row in evidence.rows
        if row.status == ROBUST and _margin(row, evidence.records[row.id]) <= noise
    ]
    if not close:
        return None
    return NOTE, (
        f"{len(close)} robust examples have a margin within {noise:g} of the largest logit, where "
        f"another batch size or machine may decide otherwise: ids {listed(close)}"
    )


def _margin(row: Example, records: Mapping[str, Record]) -> float:
    """The worst margin found for a robust example, relative to its largest clean logit."""
    scores = [records[name]["score"] for name in row.budget.split(";") if name in records]
    worst = max((score for score in scores if score is not None), default=float("inf"))
    return float(abs(worst) / max(records[CLEAN]["scale"], 1e-30))


def unfinished(evidence: Evidence) -> Verdict:
    """Is there an example that an attack of the suite has not been at?"""
    rows, records = evidence.rows, evidence.records
    left = [row for row in rows if row.status == UNFINISHED]
    if not left:
        return None
    counts: Counter[str] = Counter()
    for row in left:
        counts.update(name for name in evidence.attacks if name not in records.get(row.id, {}))
        counts.update(["the clean pass"] if row.predicted < 0 else [])
    missing = ", ".join(f"{name} on {n}" for name, n in sorted(counts.items()))
    sure = sum(row.status == ROBUST for row in rows) / len(rows)
    most = sum(row.status in (ROBUST, UNFINISHED) for row in rows) / len(rows)
    return SEVERE, (
        f"{len(left)} of {len(rows)} examples are not finished; missing: {missing}. "
        f"The robust accuracy of the whole suite lies between {sure:.4g} and {most:.4g}"
    )


def unprobed(evidence: Evidence) -> Verdict:
    """Were the examples of the sample left without their probes?"""
    if any(row.status == UNFINISHED for row in evidence.rows):
        return None
    sample = evidence.clean("sampled")
    bare = [r for r in sample if not any(n.startswith(PROBES) for n in evidence.records[r["id"]])]
    if not bare:
        return None
    return NOTE, (
        f"the time was up before {len(bare)} of {len(sample)} examples were probed, so some flags "
        f"could not be raised: ids {ids_of(bare)}"
    )
