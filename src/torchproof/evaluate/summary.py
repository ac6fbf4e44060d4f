"""From records to a result: one pure function, for a run and for merged shards alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from torchproof.core.metrics import clopper_pearson
from torchproof.evaluate.flags import NOTE, SEVERE, flags
from torchproof.evaluate.ledger import Header, Record
from torchproof.evaluate.outcome import BROKEN, Example, outcome
from torchproof.evaluate.recheck import named
from torchproof.evaluate.record import AttackRecord, FlagRecord, Result, ThreatRecord

All = Mapping[int, Mapping[str, Record]]


def summarise(header: Header, records: All) -> tuple[Result, tuple[Example, ...]]:
    """The result and one row per example, in the order of the header's ids."""
    settings, about = header.settings, header.about
    names = [attack["name"] for attack in settings["attacks"]]
    rows = tuple(
        outcome(i, label, records.get(i, {}), names)
        for i, label in zip(header.ids, header.labels, strict=True)
    )
    held, n = sum(row.clean and row.status != BROKEN for row in rows), len(rows)
    found = flags(header, rows, records)
    copied = ("model_sha256", "data_sha256", "suite", "seed", "device", "dtype", "quantised")
    result = Result(
        n=n,
        threat=ThreatRecord(**about["threat"]),
        clean_accuracy=sum(row.clean for row in rows) / n,
        robust_accuracy=held / n,
        robust_accuracy_ci95=clopper_pearson(held, n),
        attacks=_table(settings["attacks"], rows, records),
        forward=sum(row.forward for row in rows),
        backward=sum(row.backward for row in rows),
        seconds=_seconds(records),
        flags=[FlagRecord(**asdict(flag)) for flag in found],
        labels=about["labels"] + _labels(header, {f.name for f in found if f.severity != NOTE}),
        verdict="unreliable" if any(flag.severity == SEVERE for flag in found) else "ok",
        versions=settings["versions"],
        **{key: settings[key] for key in copied},
        **{key: about[key] for key in ("date", "model", "data", "command")},
    )
    return result, rows


def _table(
    attacks: Sequence[Mapping[str, str]], rows: Sequence[Example], records: All
) -> list[AttackRecord]:
    """The attacks in order, each with what was left after it."""
    left, table = sum(row.clean for row in rows), []
    for attack in attacks:
        name = attack["name"]
        broken = sum(row.broken_by == name for row in rows)
        left -= broken
        mine = [records[row.id][name] for row in rows if name in row.budget.split(";")]
        forward, backward = (sum(r[way] for r in mine) for way in ("forward", "backward"))
        table.append(
            AttackRecord(
                name=name,
                settings=attack["settings"],
                robust_accuracy=left / len(rows),
                broken=broken,
                forward=forward,
                backward=backward,
                seconds=_seconds(records, (name, named(name))),
            )
        )
    return table


def _seconds(records: All, only: Sequence[str] = ()) -> float:
    """Time spent on the records of these attacks, or on all."""
    spent: list[Any] = [
        record["seconds"]
        for of in records.values()
        for name, record in of.items()
        if not only or name in only
    ]
    return float(sum(spent))


def _labels(header: Header, flagged: set[str]) -> list[str]:
    """What a reader of the numbers must know."""
    texts = []
    shard, total = header.settings["shard"], header.settings["n"]
    if len(header.ids) < total:
        texts.append(f"shard {shard}: {len(header.ids)} of {total} examples")
    if flagged & {"zero-gradients", "probabilities", "gradient-free-wins"}:
        texts.append("gradient masking suspected")
    return texts
