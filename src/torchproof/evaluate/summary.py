"""From records to a result: one pure function, for a run and for merged shards alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from torchproof.core.metrics import clopper_pearson
from torchproof.evaluate.flags import MASKING, NOTE, SEVERE, Flag, flags
from torchproof.evaluate.ledger import Header, Record
from torchproof.evaluate.member import CLEAN, PROBES
from torchproof.evaluate.outcome import BROKEN, CERTIFIED, ROBUST, Example, outcome
from torchproof.evaluate.recheck import named

if TYPE_CHECKING:  # records bring pydantic with them: a tenth of torch's import
    from torchproof.evaluate.record import AttackRecord, ProbesRecord, Result, StandingRecord

All = Mapping[int, Mapping[str, Record]]


def summarise(header: Header, records: All) -> tuple[Result, tuple[Example, ...]]:
    """The result and one row per example, in the order of the header's ids."""
    from torchproof.evaluate.record import FlagRecord, Result, ThreatRecord

    header, rows, found, why = _applied(header, records)
    settings, about = header.settings, header.about
    held, n = sum(row.clean and row.status != BROKEN for row in rows), len(rows)
    copied = ("model_sha256", "data_sha256", "suite", "seed", "device", "dtype", "quantised")
    result = Result(
        n=n,
        threat=ThreatRecord(**about["threat"]),
        target=settings.get("target"),
        clean_accuracy=sum(row.clean for row in rows) / n,
        robust_accuracy=held / n,
        robust_accuracy_ci95=clopper_pearson(held, n),
        certified_accuracy=_certified(header, rows),
        standing=_standing(header, rows),
        rejection_rate=_rejected(header, rows),
        attacks=_table(settings["attacks"], rows, records),
        forward=sum(row.forward for row in rows),
        backward=sum(row.backward for row in rows),
        per_robust_example=_per_robust(rows),
        seconds=_seconds(records),
        probes=_probes(rows, records),
        flags=[FlagRecord(**asdict(flag)) for flag in found],
        labels=about["labels"]
        + _labels(header, {f.name for f in found if f.severity != NOTE})
        + why,
        verdict="unreliable" if any(flag.severity == SEVERE for flag in found) else "ok",
        versions=settings["versions"],
        **{key: settings[key] for key in copied},
        **{key: about[key] for key in ("date", "model", "data", "command")},
    )
    return result, rows


def _certified(header: Header, rows: Sequence[Example]) -> float | None:
    """The share of examples that were certified and that nothing broke; None without a verifier."""
    if header.settings.get("verifier") is None:
        return None
    return sum(row.certificate == CERTIFIED for row in rows) / len(rows)


def _standing(header: Header, rows: Sequence[Example]) -> StandingRecord | None:
    """How many examples are certified, broken, undecided ...; None without a verifier."""
    if header.settings.get("verifier") is None:
        return None
    from torchproof.evaluate.record import StandingRecord

    counts = Counter(row.certificate for row in rows)
    return StandingRecord(**{name: counts[name] for name in StandingRecord.model_fields})


def _rejected(header: Header, rows: Sequence[Example]) -> float | None:
    """The share of clean images that were rejected; None for a model that cannot."""
    rule = header.settings.get("rejecting")
    return None if rule is None else sum(r.predicted == rule["answer"] for r in rows) / len(rows)


def _per_robust(rows: Sequence[Example]) -> float | None:
    """The mean number of evaluations of an example that stood: what robustness costs to show."""
    spent = [row.forward + row.backward for row in rows if row.status == ROBUST]
    return sum(spent) / len(spent) if spent else None


def alarms(header: Header, records: All) -> list[str]:
    """The names of the flags after which the reserve of the suite is to be run."""
    base = _base(header)
    return [f.name for f in flags(base, _rows(base, records), records) if f.name in MASKING
            and f.severity == SEVERE]  # fmt: skip


def _applied(
    header: Header, records: All
) -> tuple[Header, tuple[Example, ...], list[Flag], list[str]]:
    """The header with the attacks that apply, the rows, the flags, and a word on the reserve.

    Reserves apply where a flag asks for them or where one was run. As this is read from the records
    alone, merged shards are judged as one run is: what a shard did not do is unfinished.
    """
    base, asked = _base(header), alarms(header, records)
    extra = {a["name"] for a in header.settings["attacks"] if a.get("reserve")}
    if not extra or not (asked or any(extra & of.keys() for of in records.values())):
        rows = _rows(base, records)
        return base, rows, flags(base, rows, records), []
    rows = _rows(header, records)
    why = f"after {', '.join(asked)}" if asked else "on request"
    text = f"{', '.join(sorted(extra))} run {why} on what was left"
    return header, rows, flags(header, rows, records), [text]


def _base(header: Header) -> Header:
    attacks = [a for a in header.settings["attacks"] if not a.get("reserve")]
    return replace(header, settings=header.settings | {"attacks": attacks})


def _rows(header: Header, records: All) -> tuple[Example, ...]:
    names = [attack["name"] for attack in header.settings["attacks"]]
    verified = header.settings.get("verifier") is not None
    return tuple(
        outcome(i, label, records.get(i, {}), names, verified)
        for i, label in zip(header.ids, header.labels, strict=True)
    )


def _table(
    attacks: Sequence[Mapping[str, str]], rows: Sequence[Example], records: All
) -> list[AttackRecord]:
    """The attacks in order, each with what was left after it."""
    from torchproof.evaluate.record import AttackRecord

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


def _probes(rows: Sequence[Example], records: All) -> ProbesRecord:
    """What was asked for the flags alone, on the sample and in the clean pass."""
    asked = [
        (row.id, record)
        for row in rows
        for name, record in records.get(row.id, {}).items()
        if name.startswith(PROBES)
    ]
    clean = [records[row.id][CLEAN] for row in rows if CLEAN in records.get(row.id, {})]
    forward, backward = (
        sum(record[way] for _, record in asked) + sum(r.get(f"probe_{way}", 0) for r in clean)
        for way in ("forward", "backward")
    )
    from torchproof.evaluate.record import ProbesRecord

    return ProbesRecord(
        examples=len({i for i, _ in asked}),
        forward=forward,
        backward=backward,
        seconds=float(sum(record["seconds"] for _, record in asked)),
    )


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
    if flagged & MASKING:
        texts.append("gradient masking suspected")
    return texts
