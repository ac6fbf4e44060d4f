"""Red flags: reasons not to believe a number, found in the records of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence

from torchproof.evaluate.flags.flag import (
    NOTE,
    SEVERE,
    WARNING,
    All,
    Evidence,
    Flag,
    Rule,
)
from torchproof.evaluate.flags.table import MASKING, RULES
from torchproof.evaluate.ledger import Header
from torchproof.evaluate.outcome import Example

__all__ = [
    "MASKING",
    "NOTE",
    "RULES",
    "SEVERE",
    "WARNING",
    "Evidence",
    "Flag",
    "Rule",
    "flags",
]


def flags(header: Header, rows: Sequence[Example], records: All) -> list[Flag]:
    """All flags that apply, the severe ones first."""
    evidence = Evidence(header, rows, records)
    found = []
    for rule in RULES:
        verdict = rule.judge(evidence)
        if verdict is not None:
            found.append(Flag(rule.name, *verdict, rule.remedy))
    order = [SEVERE, WARNING, NOTE]
    return sorted(found, key=lambda flag: order.index(flag.severity))
