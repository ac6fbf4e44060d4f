"""A red flag, the evidence it is judged on, and the rule that raises it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from torchproof.evaluate.ledger import Header, Record
from torchproof.evaluate.member import CLEAN, PROBES
from torchproof.evaluate.outcome import ROBUST, Example

SEVERE, WARNING, NOTE = "severe", "warning", "note"

All = Mapping[int, Mapping[str, Record]]
Verdict = tuple[str, str] | None  # severity and evidence, or nothing to say


@dataclass(frozen=True)
class Flag:
    """`severity`: severe (the verdict is then "unreliable"), warning or note."""

    name: str
    severity: str
    evidence: str
    remedy: str


@dataclass(frozen=True)
class Evidence:
    """What an evaluation left behind: its header, one row per example, all records by id and name.

    Nothing else may decide about a flag, so that merged shards are judged as one run is.
    """

    header: Header
    rows: Sequence[Example]
    records: All

    @property
    def attacks(self) -> list[str]:
        """The names of the attacks in order."""
        return [attack["name"] for attack in self.header.settings["attacks"]]

    @property
    def blind(self) -> set[str]:
        """The names of the attacks that use no gradients."""
        return {a["name"] for a in self.header.settings["attacks"] if not a["gradient"]}

    @property
    def averaged(self) -> bool:
        """Do all attacks ask for averages of several answers (EOT)?"""
        settings = self.header.settings
        texts = [attack["settings"] for attack in settings["attacks"]]
        return settings.get("draws", 1) > 1 or all("EOT(" in text for text in texts)

    def clean(self, question: str) -> list[Record]:
        """The clean records that answer `question`, in the order of the examples."""
        found = (self.records.get(row.id, {}).get(CLEAN, {}) for row in self.rows)
        return [record for record in found if question in record]

    def probes(self, question: str, standing: bool = False) -> list[Record]:
        """The answers to `question`, one per example and threat; `standing`: only about examples
        that every attack left standing.
        """
        return [
            record
            for row in self.rows
            if row.status == ROBUST or not standing
            for name, record in self.records.get(row.id, {}).items()
            if name.startswith(PROBES) and record.get(question) is not None
        ]


@dataclass(frozen=True)
class Rule:
    """One row of the table of flags.

    meaning, remedy: for the reader; judge: the verdict on the evidence of an evaluation; masking:
    does it say that gradients are no guide, so that attacks with gradients prove little?
    """

    name: str
    meaning: str
    remedy: str
    judge: Callable[[Evidence], Verdict]
    masking: bool = False


def listed(ids: Iterable[int], most: int = 20) -> str:
    """The ids, in order and each once, at most so many of them."""
    every = sorted(set(ids))
    rest = len(every) - most
    return ", ".join(map(str, every[:most])) + (f" and {rest} more" if rest > 0 else "")


def ids_of(records: Iterable[Record]) -> str:
    """The ids of the examples that records are about."""
    return listed(record["id"] for record in records)
