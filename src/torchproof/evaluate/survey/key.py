"""What a record of a survey is about."""

from __future__ import annotations

from typing import NamedTuple

from torchproof.core.journal import Record

SCHEMA = "torchproof.survey-ledger/1"


class Key(NamedTuple):
    """Which question a record answers."""

    network: str
    threat: str
    method: str
    image: int


def key_of(record: Record) -> Key:
    return Key(*record["key"])
