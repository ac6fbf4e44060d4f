"""What cannot be, if every bound is one: each violation is a defect of a method here."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from torchproof.core.journal import Record
from torchproof.evaluate.survey.key import Key
from torchproof.evaluate.survey.record import Violation

ATTACK, MINIMUM = "attack", "milp-alpha"
NOISE = 1e-6  # of bounds in float64, relative to 1 + |margin|
CLOSE = 1e-4  # a minimum is known when its two bounds are so near


def violations(records: Mapping[Key, Record], network: str, threat: str) -> list[Violation]:
    """Of all methods on a network at a threat, image by image, for each margin alone:

    a bound above a margin that an attack or a solver reached in the same set, which is the least
    one where MILP decided it; and an image that is certified and broken.
    """
    found: list[Violation] = []
    here = {k: r for k, r in records.items() if (k.network, k.threat) == (network, threat)}
    for image in sorted({key.image for key in here}):
        own = {key.method: r for key, r in here.items() if key.image == image}
        reached = reached_in(own)
        for method, record in own.items():
            lower = np.array(record.get("lower") or [])
            if not len(lower):
                continue
            told = _worst(lower, reached)
            about = {"network": network, "threat": threat, "image": image, "method": method}
            if bool((lower > 0).all()) and reached.min() < 0:
                t = int(reached.argmin())
                found.append(Violation(wrong="certified but broken", told=float(lower[t]),
                                       reached=float(reached[t]), **about))  # fmt: skip
            elif told is not None:
                found.append(Violation(wrong="above a margin that is reached",
                                       told=float(lower[told]), reached=float(reached[told]),
                                       **about))  # fmt: skip
    return found


def reached_in(own: Mapping[str, Record]) -> np.ndarray:
    """(K - 1,) the least margins that any method reached in the set of an image; own: its records
    by method.
    """
    uppers = [np.array(r["upper"]) for r in own.values() if r.get("upper")]
    return np.min(uppers, 0) if uppers else np.array([np.inf])


def decided(own: Mapping[str, Record]) -> bool:
    """Did MILP find all least margins of an image, and reach them?"""
    record = own.get(MINIMUM)
    if record is None or not record.get("lower"):
        return False
    lower, upper = np.array(record["lower"]), np.array(record["upper"])
    return bool((upper - lower <= CLOSE * (1 + np.abs(lower))).all())


def _worst(lower: np.ndarray, most: np.ndarray) -> int | None:
    """The margin whose bound is farthest above what it may be, None where none is above."""
    over = lower - most - NOISE * (1 + np.abs(lower))
    return int(over.argmax()) if bool((over > 0).any()) else None
