"""What became of each example, read from its records, for a run and merged shards alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torchproof.evaluate.ledger import Record
from torchproof.evaluate.member import CERTIFICATE, CLEAN
from torchproof.evaluate.recheck import named

Records = Mapping[str, Record]

MISCLASSIFIED, BROKEN, ROBUST, UNFINISHED = "misclassified", "broken", "robust", "unfinished"
CERTIFIED, UNDECIDED, CONTRADICTED = "certified", "undecided", "contradicted"


@dataclass(frozen=True)
class Example:
    """One row of examples.csv.

    status: misclassified (wrong on the clean image), broken, robust, or unfinished (an attack of
    the suite has not been at it yet); clean: is the clean image classified correctly; budget: the
    attacks that were run on it, joined by ";"; forward, backward: its sample-evaluations;
    predicted, adversarial: the classes answered to the clean and to the final image, -1 for not
    asked, K where a model of K classes rejects it; certificate: what a verifier and the attacks say
    together, empty without a verifier: misclassified, certified (proved, and left standing), broken
    (by an attack), undecided (neither), contradicted (proved and broken: a defect of the verifier
    or of the question it was asked), unfinished (not even the clean image was asked about).
    """

    id: int
    label: int
    clean: bool
    status: str
    broken_by: str
    budget: str
    forward: int
    backward: int
    predicted: int = -1
    adversarial: int = -1
    certificate: str = ""


def broken_with(records: Records, label: str) -> bool:
    """Did the attack `label` find an image that held when it was re-checked?"""
    return bool(records.get(named(label), {}).get("ok"))


def alive(records: Records, y: int, before: Sequence[str]) -> bool:
    """Correctly classified, and left standing by every attack in `before`?"""
    if records.get(CLEAN, {}).get("prediction") != y:
        return False
    return all(label in records and not broken_with(records, label) for label in before)


def outcome(
    example: int, label: int, records: Records, attacks: Sequence[str], verified: bool = False
) -> Example:
    """The row of one example with class `label`, `attacks` being the whole suite in order;
    verified: whether a verifier was part of the evaluation.
    """
    run = [name for name in attacks if name in records and "skipped" not in records[name]]
    counted = [records[name] for name in (CLEAN, CERTIFICATE, *run) if name in records]
    forward, backward = (sum(r[way] for r in counted) for way in ("forward", "backward"))
    status, by = _fate(label, records, attacks)
    predicted = int(records.get(CLEAN, {}).get("prediction", -1))
    adversarial = int(records[named(by)]["prediction"]) if by else predicted
    return Example(
        id=example,
        label=label,
        clean=predicted == label,
        status=status,
        broken_by=by,
        budget=";".join(run),
        forward=forward,
        backward=backward,
        predicted=predicted,
        adversarial=adversarial,
        certificate=_standing(label, status, records) if verified else "",
    )


def _standing(label: int, status: str, records: Records) -> str:
    """What a verifier and the attacks say of one example together."""
    if CLEAN not in records:
        return UNFINISHED
    if records[CLEAN]["prediction"] != label:
        return MISCLASSIFIED
    proved = bool(records.get(CERTIFICATE, {}).get("certified"))
    if status == BROKEN:
        return CONTRADICTED if proved else BROKEN
    return CERTIFIED if proved else UNDECIDED


def _fate(label: int, records: Records, attacks: Sequence[str]) -> tuple[str, str]:
    """Status and, where broken, by which attack."""
    if CLEAN not in records:
        return UNFINISHED, ""
    if records[CLEAN]["prediction"] != label:
        return MISCLASSIFIED, ""
    for name in attacks:
        if name not in records:
            return UNFINISHED, ""
        if broken_with(records, name):
            return BROKEN, name
    return ROBUST, ""
