"""The check that numbers which weigh a term of a loss have in common."""

from __future__ import annotations

import math
from numbers import Real

from torchproof.core.errors import InputError


def check_factor(name: str, value: object, usual: str) -> None:
    """Raises InputError unless `value`, which the caller calls `name`, is a finite number >= 0."""
    if not isinstance(value, Real) or not 0 <= float(value) < math.inf:
        raise InputError(f"{name} = {value!r}", "a finite number >= 0", usual)
