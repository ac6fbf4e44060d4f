"""Red flags: reasons not to believe a number, found in the records of an evaluation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torchproof.evaluate.clean import CLEAN, MOVED
from torchproof.evaluate.ledger import Header, Record
from torchproof.evaluate.outcome import BROKEN, ROBUST, UNFINISHED, Example
from torchproof.evaluate.recheck import named

SEVERE, WARNING, NOTE = "severe", "warning", "note"

All = Mapping[int, Mapping[str, Record]]


@dataclass(frozen=True)
class Flag:
    """`severity`: severe (the verdict is then "unreliable"), warning or note."""

    name: str
    severity: str
    evidence: str
    remedy: str


def flags(header: Header, rows: Sequence[Example], records: All) -> list[Flag]:
    """All flags that apply, the severe ones first."""
    found = [
        _probabilities(records),
        _random(records),
        _zero_gradients(records),
        _gradient_free(header, rows),
        _recheck_failed(header, rows, records),
        _float_noise(header, rows, records),
        _unfinished(header, rows),
    ]
    order = [SEVERE, WARNING, NOTE]
    return sorted((f for f in found if f is not None), key=lambda f: order.index(f.severity))


def _clean(records: All) -> list[Record]:
    return [of[CLEAN] for of in records.values() if CLEAN in of]


def _probabilities(records: All) -> Flag | None:
    clean = _clean(records)
    if not clean or not all(record["simplex"] for record in clean):
        return None
    return Flag(
        "probabilities",
        SEVERE,
        f"the outputs for all {len(clean)} clean images are non-negative and sum to one",
        "evaluate the network without its last softmax: gradients vanish where it saturates",
    )


def _random(records: All) -> Flag | None:
    asked = [record for record in _clean(records) if "moved" in record]
    moved = [r for r in asked if r["moved"] > MOVED * r["scale"]]
    if not moved:
        return None
    worst = max(record["moved"] for record in moved)
    return Flag(
        "random",
        SEVERE,
        f"two answers to the same image differ for {len(moved)} of {len(asked)} images, "
        f"by up to {worst:.3g}",
        "attack the expectation (EOT), or switch the randomness off in eval mode; results of a "
        "random model depend on batch size and cannot be resumed exactly",
    )


def _zero_gradients(records: All) -> Flag | None:
    asked = [record for record in _clean(records) if "flat" in record]
    flat = sum(record["flat"] for record in asked)
    if not flat:
        return None
    return Flag(
        "zero-gradients",
        SEVERE if flat >= 0.1 * len(asked) else WARNING,
        f"the gradient of the margin is exactly zero at {flat} of {len(asked)} clean images",
        "gradient-based attacks are blind there: replace what cuts the gradient by BPDA, and trust "
        "Square or a transfer attack more",
    )


def _gradient_free(header: Header, rows: Sequence[Example]) -> Flag | None:
    """Did attacks without gradients break what those with gradients had left?"""
    blind = {a["name"] for a in header.settings["attacks"] if not a["gradient"]}
    found = [row for row in rows if row.broken_by in blind and set(row.budget.split(";")) - blind]
    if not found:
        return None
    attacks = ", ".join(sorted({row.broken_by for row in found}))
    return Flag(
        "gradient-free-wins",
        SEVERE if len(found) > max(2, 0.02 * len(rows)) else NOTE,
        f"{attacks} broke {len(found)} of {len(rows)} examples that every attack with gradients "
        f"before it had left: ids {_listed([row.id for row in found])}",
        "gradients may be masked: look for rounding, saturation and randomness in the model, and "
        "attack a smooth substitute (BPDA)",
    )


def _recheck_failed(header: Header, rows: Sequence[Example], records: All) -> Flag | None:
    verdicts = [
        (i, of[named(name)])
        for i, of in sorted(records.items())
        for name in _names(header)
        if named(name) in of
    ]
    failed = [(i, verdict) for i, verdict in verdicts if not verdict["ok"]]
    if not failed:
        return None
    outside = sum(not verdict["inside"] for _, verdict in failed)
    few = len(failed) == 1 or len(failed) <= 0.01 * len(verdicts)
    return Flag(
        "recheck-failed",
        WARNING if few and not outside else SEVERE,
        f"{len(failed)} of {len(verdicts)} adversarial images did not hold when read back "
        f"({outside} outside the set, the others classified correctly) and do not count as broken: "
        f"ids {_listed([i for i, _ in failed])}",
        "evaluate in float32 or float64 outside autocast, and look for randomness in the model",
    )


def _float_noise(header: Header, rows: Sequence[Example], records: All) -> Flag | None:
    noise = 1e-12 if header.settings["dtype"] == "float64" else 1e-5
    close = [
        row.id
        for row in rows
        if row.status in (BROKEN, ROBUST) and _margin(row, records[row.id]) <= noise
    ]
    if not close:
        return None
    return Flag(
        "float-noise",
        NOTE,
        f"{len(close)} decisions rest on a margin within {noise:g} of the largest logit, where "
        f"another batch size or machine may decide otherwise: ids {_listed(close)}",
        "evaluate in float64 to settle them",
    )


def _margin(row: Example, records: Mapping[str, Record]) -> float:
    """The worst margin that decided about an example, relative to its largest clean logit."""
    names = [row.broken_by] if row.broken_by else row.budget.split(";")
    scores = [records[name]["score"] for name in names if name in records]
    worst = max((score for score in scores if score is not None), default=float("inf"))
    return float(abs(worst) / max(records[CLEAN]["scale"], 1e-30))


def _unfinished(header: Header, rows: Sequence[Example]) -> Flag | None:
    left = [row for row in rows if row.status == UNFINISHED]
    if not left:
        return None
    counts: Counter[str] = Counter()
    for row in left:
        counts.update(set(_names(header)) - set(row.budget.split(";")))
        counts.update(["the clean pass"] if row.predicted < 0 else [])
    missing = ", ".join(f"{name} on {n}" for name, n in sorted(counts.items()))
    sure = sum(row.status == ROBUST for row in rows) / len(rows)
    most = sum(row.status in (ROBUST, UNFINISHED) for row in rows) / len(rows)
    return Flag(
        "unfinished",
        SEVERE,
        f"{len(left)} of {len(rows)} examples are not finished; missing: {missing}. "
        f"The robust accuracy of the whole suite lies between {sure:.4g} and {most:.4g}",
        "evaluate again with resume=True and more max_seconds",
    )


def _names(header: Header) -> list[str]:
    return [attack["name"] for attack in header.settings["attacks"]]


def _listed(ids: Sequence[int]) -> str:
    return ", ".join(map(str, ids))
