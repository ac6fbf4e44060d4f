"""How far a semidefinite bound may be above what holds in real arithmetic.

The forms that stand in the matrix are off from the network's by `Doubts`. For |y_i| <= 1 a product
of two forms of sizes S, T that are off by s, t is off by at most S t + T s + s t, whatever y is; so
the quadratic of multipliers is off by the sum of that, times the multipliers, and by its own sums.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np

from torchproof.verify.sdp.lifted import Lifted
from torchproof.verify.sdp.products import Scales

U = 2.0**-53


class Doubts(NamedTuple):
    """(M,) of what goes into every ReLU and comes out of it, () of the margin; times: the most
    roundings on the way to any number.
    """

    before: np.ndarray
    after: np.ndarray
    margin: float
    times: int

    @classmethod
    def none(cls, count: int) -> Doubts:
        """Of forms that are taken to be exact."""
        return cls(np.zeros(count), np.zeros(count), 0.0, 0)


Doubting = Callable[[Lifted], Doubts]
"""Of a single problem."""


class Offs(NamedTuple):
    """What the factors of `products` are off by, (M,) each."""

    doubts: Doubts
    on: np.ndarray
    off: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def of(cls, lifted: Lifted, doubts: Doubts, sizes: Mapping[str, np.ndarray]) -> Offs:
        """sizes: (M,) of the factors of a single problem, by name. Their scales are rounded too,
        which only matters where two of them are subtracted (the triangle's gap).
        """
        s = Scales.of(lifted, 0)
        on, off, within = (t[0].cpu().numpy() for t in (s.on, s.off, s.within))
        share = 2 * (doubts.times + 16) * U if doubts.times else 0.0
        through = {"on": on * doubts.after, "off": off * (doubts.after + doubts.before),
                   "low": within * doubts.before, "high": within * doubts.before}  # fmt: skip
        return cls(doubts, *(t + share * (sizes[name] + 1) for name, t in through.items()))


class Part(NamedTuple):
    """Products: multipliers (m,), and of both factors sizes and doubts (m,)."""

    multipliers: np.ndarray
    left: np.ndarray
    left_off: np.ndarray
    right: np.ndarray
    right_off: np.ndarray


def error(parts: Iterable[Part], margin: Part, kappa: np.ndarray, times: int) -> float:
    """Of the quadratic with all these products: of its forms, and of adding it up."""
    total, off = float(np.abs(kappa).sum()), 0.0
    count = 64 + times + len(kappa)
    for part in (margin, *parts):
        m = np.abs(part.multipliers)
        total += float(m @ (part.left * part.right))
        off += float(m @ (part.left * part.right_off + part.right * part.left_off
                          + part.left_off * part.right_off))  # fmt: skip
        count += len(m)
    return 2 * off + 2 * count * U * total
