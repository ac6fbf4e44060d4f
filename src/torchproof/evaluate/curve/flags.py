"""Red flags of a robustness curve: reasons not to believe it, and where it is only a bound."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torchproof.evaluate.curve.checks import Check
from torchproof.evaluate.curve.distances import DistanceRow
from torchproof.evaluate.flags import RULES, Flag
from torchproof.evaluate.flags.flag import NOTE, SEVERE, WARNING, listed
from torchproof.evaluate.flags.gradients import undefined_in
from torchproof.evaluate.ledger import Record

_UNDEFINED = next(rule for rule in RULES if rule.name == "undefined-gradients")
_MANY = 0.05  # of the examples lowered by one check: then the curve is wrong between checks too


def curve_flags(
    rows: Sequence[DistanceRow], nearer: Sequence[DistanceRow], checks: Sequence[Check],
    missing: Sequence[float], clean: Sequence[Record], found: Sequence[Record],
) -> list[Flag]:  # fmt: skip
    """All that apply, the severe ones first. rows: before the checks, nearer: after them; clean,
    found: what is recorded of clean images, and of the minimum-norm attack.
    """
    every = [
        _unfinished(rows, missing),
        _check_unreliable(checks),
        _upper_bound(rows, checks),
        _not_found(nearer),
        _unconfirmed([record["id"] for record in found if record["unconfirmed"]]),
        _undefined(nearer, clean, found),
        _unchecked(checks, missing),
    ]
    flags = [flag for flag in every if flag is not None]
    return sorted(flags, key=lambda flag: (SEVERE, WARNING, NOTE).index(flag.severity))


def _unfinished(rows: Sequence[DistanceRow], missing: Sequence[float]) -> Flag | None:
    left = sum(not row.finished for row in rows)
    if not left and not missing:
        return None
    texts = [f"{left} of {len(rows)} examples have no distance yet"] if left else []
    texts += [f"no check at eps {', '.join(f'{e:.6g}' for e in missing)}"] if missing else []
    return Flag(
        "unfinished",
        SEVERE,
        "; ".join(texts),
        "run it again with resume and more time; until then unfinished examples count as standing",
    )


def _check_unreliable(checks: Sequence[Check]) -> Flag | None:
    bad = [check for check in checks if check.report.verdict != "ok"]
    if not bad:
        return None
    names = {f.name for check in bad for f in check.report.flags if f.severity == SEVERE}
    return Flag(
        "check-unreliable",
        SEVERE,
        f"the fixed-budget evaluations at eps {', '.join(f'{c.eps:.6g}' for c in bad)} raise "
        f"{', '.join(sorted(names))}",
        "what these flags say of the model holds for the curve as well: see their remedies",
    )


def _upper_bound(rows: Sequence[DistanceRow], checks: Sequence[Check]) -> Flag | None:
    """Did a fixed-budget attack break what the minimum-norm attack placed beyond its eps?"""
    found = [(check.eps, beyond) for check in checks if (beyond := check.lowered(rows))]
    if not found:
        return None
    most = max(len(beyond) for _, beyond in found)
    texts = [_lowered(eps, beyond) for eps, beyond in found]
    return Flag(
        "upper-bound",
        SEVERE if most > max(2, _MANY * len(rows)) else WARNING,
        f"of {len(rows)} examples, fixed-budget attacks broke some that the minimum-norm attack "
        f"had placed farther out: {'; '.join(texts)}",
        "the curve is corrected at the checks, but between them it remains an upper bound: give "
        "the attack more steps or targets, or check at more eps",
    )


def _lowered(eps: float, beyond: Sequence[DistanceRow]) -> str:
    far = max(row.distance for row in beyond) / eps - 1
    by = f"by up to {100 * far:.1f} %" if math.isfinite(far) else "some at no distance at all"
    return f"{len(beyond)} at eps {eps:.6g} ({by}; ids {listed(row.id for row in beyond)})"


def _not_found(rows: Sequence[DistanceRow]) -> Flag | None:
    ids = [row.id for row in rows if row.finished and math.isinf(row.nearest)]
    if not ids:
        return None
    return Flag(
        "not-found",
        WARNING,
        f"no adversarial image at any distance for {len(ids)} of {len(rows)} examples: "
        f"ids {listed(ids)}",
        "an image of another class is one, so the attack failed there and the curve never falls to "
        "0: more steps, targets or random starts help, and an attack without gradients if none do",
    )


def _unconfirmed(ids: Sequence[int]) -> Flag | None:
    if not ids:
        return None
    return Flag(
        "unconfirmed",
        WARNING,
        f"the nearest images of {len(ids)} examples were classified correctly when they were asked "
        f"about again, and count as not found: ids {listed(ids)}",
        "measure in float32 or float64, and look for randomness in the model",
    )


def _undefined(
    rows: Sequence[DistanceRow], clean: Sequence[Record], found: Sequence[Record]
) -> Flag | None:
    """The same as of an evaluation; an example stands where nothing adversarial was found."""
    asked = [record for record in clean if "undefined" in record]
    met = {record["id"]: record.get("undefined", 0) for record in found}
    standing = {row.id for row in rows if math.isinf(row.nearest)}
    verdict = undefined_in(asked, met, standing)
    return None if verdict is None else Flag(_UNDEFINED.name, *verdict, _UNDEFINED.remedy)


def _unchecked(checks: Sequence[Check], missing: Sequence[float]) -> Flag | None:
    if checks or missing:
        return None
    return Flag(
        "unchecked",
        NOTE,
        "no fixed-budget attack was run beside the minimum-norm attack",
        "name one or more eps to check: a curve that nothing contradicts is only unchallenged",
    )
