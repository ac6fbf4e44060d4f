"""The largest value of a function of one variable, for many problems at once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from torchproof.verify.smoothing.probabilities import Floats

_POINTS, _ROUNDS = 33, 7  # the step of the last grid is 16^-6 of the first


def largest(value: Callable[[Floats], Floats], low: Floats, high: Floats) -> Floats:
    """The largest of value(t), t in [low, high], over grids that close in on the best point so far.

    low, high (...); value maps (..., G) to (..., G). What is returned was taken on somewhere: where
    every t gives a valid certificate, a missed maximum costs tightness, never soundness.
    """
    share = np.linspace(0.0, 1.0, _POINTS)
    first, last = low, high
    best = np.full(low.shape, -np.inf)
    for _ in range(_ROUNDS):
        t = first[..., None] + (last - first)[..., None] * share
        found = value(t)
        best = np.maximum(best, found.max(-1))
        at = found.argmax(-1)[..., None]
        around = np.maximum(at - 1, 0), np.minimum(at + 1, _POINTS - 1)
        first, last = (np.take_along_axis(t, i, -1)[..., 0] for i in around)
    return best
