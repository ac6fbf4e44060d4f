"""The record of `hypocrisy`: hypocrisy.json (schema torchproof.hypocrisy/1) and friends.csv."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from torchproof.core.files import write
from torchproof.evaluate.ledger import Header, Record
from torchproof.evaluate.member import CLEAN
from torchproof.evaluate.risks import Fate, Risks, Share
from torchproof.evaluate.stored import Stored
from torchproof.evaluate.sway import FOE, TOWARDS

SCHEMA = "torchproof.hypocrisy/1"
RESULT, ROWS = "hypocrisy.json", "friends.csv"

All = Mapping[int, Mapping[str, Record]]


class FriendRecord(BaseModel):
    """One hypocritical attack, on all errors of the clean model, whatever the others did."""

    name: str
    settings: str
    hypocritical_risk: Share
    verification_accuracy: Share
    forward: int
    backward: int
    seconds: float


class HypocrisyRecord(Stored):
    """The content of hypocrisy.json.

    risks: of the worst case of all attacks, by name, and the two accuracies; identities: equalities
    that hold exactly, or something is wrong; unfinished: examples that some attack has not dealt
    with; unconfirmed: answers that were other ones when the moved image was asked about again;
    undefined: examples about which an attack met a gradient that was NaN or infinite; classes: for
    each class the errors with another answer that an attack moved there, empty where none was
    asked for (the true class is one like all others, so compare them with hypocritical risk).
    """

    file: ClassVar[str] = RESULT
    remedy: ClassVar[str] = "run `torchproof hypocrisy` into this folder first"
    model_config = ConfigDict(extra="forbid")

    schema_: str = Field(default=SCHEMA, alias="schema")
    threat: str
    seed: int
    adversary: str
    risks: dict[str, Share]
    attacks: list[FriendRecord]
    classes: list[Share] = Field(default_factory=list)
    identities: dict[str, bool]
    forward: int
    backward: int
    seconds: float
    unfinished: int
    unconfirmed: int
    undefined: int = 0
    verdict: str
    versions: dict[str, str]
    command: str


@dataclass(frozen=True)
class FriendRow:
    """One row of friends.csv.

    predicted: the clean answer; correct: is it the label; befriended_by: the attacks, joined by
    ";", that made it correct; changed: the adversary changed the answer; forward, backward: sample
    evaluations; finished: every attack that concerns the example has dealt with it.
    """

    id: int
    label: int
    predicted: int
    correct: bool
    befriended_by: str
    changed: bool
    forward: int
    backward: int
    finished: bool


def summarise(header: Header, records: All) -> tuple[HypocrisyRecord, tuple[FriendRow, ...]]:
    """Record and rows, from the ledger alone."""
    settings, about = header.settings, header.about
    names = [attack["name"] for attack in settings["attacks"]]
    classes = range((settings.get("towards") or {}).get("classes", 0))
    rows = tuple(
        _row(i, label, records.get(i, {}), names, classes)
        for i, label in zip(header.ids, header.labels, strict=True)
    )
    risks = Risks.of([Fate(r.correct, bool(r.befriended_by), r.changed) for r in rows])
    identities, unfinished = risks.identities, sum(not row.finished for row in rows)
    every = [record for of in records.values() for record in of.values()]
    unconfirmed = sum(bool(record.get("unconfirmed")) for record in every)
    undefined = sum(any(r.get("undefined") for r in of.values()) for of in records.values())
    sound = all(identities.values()) and not (unfinished or unconfirmed or undefined)
    copied = ("model_sha256", "data_sha256", "seed", "versions", "threat", "adversary")
    result = HypocrisyRecord(
        n=len(rows), risks=risks.shares, identities=identities,
        attacks=[_attack(attack, rows, records, risks) for attack in settings["attacks"]],
        classes=[_reached(number, rows, records) for number in classes],
        forward=sum(row.forward for row in rows), backward=sum(row.backward for row in rows),
        seconds=float(sum(record["seconds"] for record in every)),
        unfinished=unfinished, unconfirmed=unconfirmed, undefined=undefined,
        verdict="ok" if sound else "unreliable",
        **{key: settings[key] for key in copied},
        **{key: about[key] for key in ("date", "model", "data", "command")},
    )  # fmt: skip
    return result, rows


def _reached(number: int, rows: Sequence[FriendRow], records: All) -> Share:
    """Of the errors that are not answered with this class, those that were moved there."""
    others = [r for r in rows if not r.correct and r.predicted not in (-1, number)]
    name = f"{TOWARDS}{number}"
    hits = sum(bool(records[r.id].get(name, {}).get("lost")) for r in others)
    return Share.of(hits, len(others))


def _row(
    example: int, label: int, records: Mapping[str, Record], names: Sequence[str], classes: range
) -> FriendRow:
    predicted = int(records.get(CLEAN, {}).get("prediction", -1))
    correct = predicted == label
    aimed = [f"{TOWARDS}{number}" for number in classes if number != predicted]
    due = [CLEAN, FOE, *([] if correct else [*names, *aimed])]
    known = [records[name] for name in due if name in records]
    friends = [name for name in names if records.get(name, {}).get("lost")]
    return FriendRow(
        id=example, label=label, predicted=predicted, correct=correct,
        befriended_by=";".join(friends), changed=bool(records.get(FOE, {}).get("lost")),
        forward=sum(r["forward"] for r in known), backward=sum(r["backward"] for r in known),
        finished=len(known) == len(due),
    )  # fmt: skip


def _attack(
    attack: Mapping[str, str], rows: Sequence[FriendRow], records: All, risks: Risks
) -> FriendRecord:
    name = attack["name"]
    hits = sum(name in row.befriended_by.split(";") for row in rows)
    mine: list[Record] = [records[r.id][name] for r in rows if name in records.get(r.id, {})]
    spent: dict[str, Any] = {k: sum(r[k] for r in mine) for k in ("forward", "backward", "seconds")}
    return FriendRecord(
        name=name,
        settings=attack["settings"],
        hypocritical_risk=Share.of(hits, risks.wrong),
        verification_accuracy=Share.of(risks.correct + hits, risks.n),
        **spent,
    )


def write_rows(folder: Path, rows: Sequence[FriendRow]) -> None:
    """Writes friends.csv, one row per example; raises FileError."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [f.name for f in fields(FriendRow)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    write(folder / ROWS, text.getvalue().encode())
