"""From records to the rows of a table."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from torchproof.core.journal import Record
from torchproof.core.norms import name_of
from torchproof.core.threats import Threat, eps_text
from torchproof.evaluate.survey.checks import ATTACK, decided
from torchproof.evaluate.survey.key import Key
from torchproof.evaluate.survey.record import Cell, Row, Share
from torchproof.evaluate.survey.subject import Subject
from torchproof.verify.methods import ESTIMATES, METHODS

NEARLY = 0.85  # of its seconds: a method with a clock of its own stops a little early

Records = Mapping[Key, Record]


def cell(
    records: Records, subject: Subject, threat: Threat, methods: Sequence[str], n: int,
    seconds: float,
) -> Cell:  # fmt: skip
    """What is known of a network at a threat; methods in their order."""
    n = min(n, len(subject.x))
    here = {
        method: {i: r for i in range(n)
                 if (r := records.get(Key(subject.name, str(threat), method, i))) is not None}
        for method in [ATTACK, *methods, *(_same(m) for m in methods if _same(m))]
    }  # fmt: skip
    attacks = here[ATTACK]
    right = [i for i in range(n) if attacks[i]["right"]]
    stands = [i for i in right if min(attacks[i]["upper"]) > 0]
    known = sum(decided({m: of[i] for m, of in here.items() if i in of}) for i in right)
    return Cell(
        network=subject.name, training=subject.training, data=subject.data,
        norm=name_of(threat.norm), eps=threat.eps, eps_text=eps_text(threat.eps),
        clean=Share.of(len(right), n), attacked=Share.of(len(stands), n), decided=known,
        rows=tuple(_row(m, here[_same(m) or m], attacks, n, seconds, threat) for m in methods),
    )  # fmt: skip


def _same(method: str) -> str:
    return METHODS[method].same if method in METHODS else ""


def _row(
    method: str, of: Mapping[int, Record], attacks: Mapping[int, Record], n: int, seconds: float,
    threat: Threat,
) -> Row:  # fmt: skip
    """Images that are classified wrongly are not certified, at no cost; those after the last that
    was asked about do not count, unless nothing is left that could be asked.
    """
    right = [i for i in range(n) if attacks[i]["right"]]
    failed = next((r["why"] for r in of.values() if r["status"] == "failed"), "")
    made = Row(method=method, same=_same(method), failed=failed)
    asked = [i for i in sorted(of) if of[i]["status"] != "failed"]
    if right and not asked:
        return made.model_copy(update={"failed": failed or "not asked"})
    first = n if asked == right else asked[-1] + 1
    timed = method in METHODS and METHODS[method].timed
    late = [i for i in asked if of[i]["status"] == "late" or
            (timed and of[i]["seconds"] >= NEARLY * seconds)]  # fmt: skip
    times = [of[i]["seconds" if i in late else "cpu"] for i in asked]
    sure = [i for i in asked if of[i].get("lower") and min(of[i]["lower"]) > 0]
    made.late, made.enough = len(late), len(set(late) & set(sure))
    made.median_seconds = statistics.median(times) if times else None
    if method in ESTIMATES:
        claims = [i for i in asked if of[i].get("radius", 0.0) >= threat.eps]
        made.claimed = len(claims)
        made.wrongly = sum(min(attacks[i]["upper"]) < 0 for i in claims)
    else:
        made.certified = Share.of(len(sure), first)
    return made
