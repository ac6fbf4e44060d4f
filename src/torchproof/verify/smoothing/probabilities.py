"""What is known of the class probabilities under noise, and what is refused as such."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from torchproof.core.errors import InputError

Floats = NDArray[np.float64]
Bounds = tuple[Floats, Floats]


def bounds(lower: Any, upper: Any | None = None) -> Bounds:
    """(pA, pB): a lower bound of the probability of the class that is certified and an upper bound
    of that of every other class, float64 arrays of one shape; numbers, arrays or tensors are taken.

    Without `upper`, pB is 1 - pA; it is never more than that. Raises InputError for anything but
    0 <= pA < 1 and 0 < pB <= 1: no sample shows certainty, and a bound that reads 1 was rounded.
    """
    a = _array("pA", lower)
    b = 1 - a if upper is None else _array("pB", upper)
    if not bool(((a >= 0) & (a < 1)).all()):
        raise InputError(f"pA = {_worst(a)}", "0 <= pA < 1", "pass a lower confidence bound")
    if not bool(((b > 0) & (b <= 1)).all()):
        raise InputError(f"pB = {_worst(b)}", "0 < pB <= 1", "pass an upper confidence bound")
    try:
        a, b = np.broadcast_arrays(a, b)
    except ValueError:
        given = f"pA of shape {a.shape} and pB of shape {b.shape}"
        raise InputError(given, "shapes that broadcast", "give one pB for each pA") from None
    return a.copy(), np.minimum(b, 1 - a)


def positive(**numbers: float) -> None:
    """Raises InputError naming the first number that is not finite and above 0."""
    for name, number in numbers.items():
        real = isinstance(number, (int, float, np.floating)) and not isinstance(number, bool)
        if not (real and math.isfinite(number) and number > 0):
            remedy = "noise is measured in units of the input, where pixels are in [0, 1]"
            raise InputError(f"{name} = {number!r}", "a finite number above 0", remedy)


def whole(least: int, **numbers: int) -> None:
    """Raises InputError naming the first number that is not whole, or below `least`."""
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int) or number < least:
            expected = f"a whole number >= {least}"
            raise InputError(f"{name} = {number!r}", expected, f"pass {name}={least} or more")


def _array(name: str, value: Any) -> Floats:
    array = np.asarray(value.detach().cpu().numpy() if isinstance(value, Tensor) else value)
    if array.dtype != np.float64 and array.dtype.kind not in "iu":
        remedy = "count and bound in float64: a float32 near 1 may have been rounded up"
        raise InputError(f"{name} as {array.dtype}", "float64", remedy)
    return array.astype(np.float64)


def _worst(values: Floats) -> str:
    """The first value that is no probability, else the extremes."""
    odd = values[~((values > 0) & (values < 1))]
    return f"{odd.flat[0]:.6g}" if odd.size else f"{values.min():.6g} ... {values.max():.6g}"
