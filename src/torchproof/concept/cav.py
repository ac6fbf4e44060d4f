"""Concept activation vectors (Kim et al. 2018, arXiv 1711.11279): a linear classifier between the
activations of concept images and those of random images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from torchproof.core import keys
from torchproof.core.errors import InputError

Array = npt.NDArray[Any]
LEAST = 2  # examples on either side


@dataclass(frozen=True, eq=False)
class Cav:
    """A direction of activation space, `vector` (D,) of Euclidean length 1, and the threshold of
    its classifier: the concept is there where vector . a + bias > 0. Both float64, on the CPU.
    converged: was the minimum found that is this vector's definition?
    """

    vector: Tensor
    bias: float
    converged: bool = True

    @classmethod
    def of(cls, weights: Array, bias: float, converged: bool = True) -> Cav:
        """From any weights (D,); raises InputError where they vanish or are not finite."""
        length = float(np.linalg.norm(weights))
        if not (np.isfinite(length) and length > 0 and np.isfinite(bias)):
            given = f"a concept classifier with weights of length {length:g}, bias {bias:g}"
            remedy = "look at the activations: are those of both sides the same, or not finite?"
            raise InputError(given, "finite weights that are not all 0", remedy)
        vector = torch.from_numpy(np.asarray(weights, np.float64) / length)
        return cls(vector, bias / length, converged)

    def score(self, a: Tensor) -> Tensor:
        """(N,) signed distances of activations (N, D) from the boundary, positive on the concept's
        side, in units of the activations.
        """
        return a.double() @ self.vector + self.bias


def cav(concept: Tensor, random: Tensor, alpha: float = 0.01, seed: int = 0) -> Cav:
    """The classifier of Kim et al. 2018: hinge loss, L2 penalty alpha / 2, stochastic gradient
    descent (scikit-learn's SGDClassifier, 1000 passes at most, tolerance 1e-3) between activations
    (N, D) and (M, D).

    The penalty, and so the vector, depends on the unit of the activations; see `unit_of`.
    """
    from sklearn.linear_model import SGDClassifier  # slow to load

    a, y = both(concept, random)
    made = SGDClassifier(
        loss="hinge", alpha=alpha, max_iter=1000, tol=1e-3,
        random_state=keys.seed_of(seed, "cav") % 2**32,
    ).fit(a, y)  # fmt: skip
    return Cav.of(made.coef_[0], float(made.intercept_[0]))


def pattern_cav(concept: Tensor, random: Tensor) -> Cav:
    """The difference of means of activations (N, D) and (M, D), cut in the middle: the pattern that
    goes with the label, whatever else varies (Pahde et al., "Navigating Neural Space").
    """
    a, y = both(concept, random)
    up, down = a[y > 0].mean(0), a[y < 0].mean(0)
    return Cav.of(up - down, float(-(up - down) @ (up + down) / 2))


def average(cavs: Sequence[Cav]) -> Cav:
    """The mean of the unit vectors and of the biases that go with them, of length 1 again."""
    if not cavs:
        raise InputError("no concept vectors", "at least one", "give the vectors to average")
    vector = torch.stack([one.vector for one in cavs]).mean(0).numpy()
    return Cav.of(vector, sum(one.bias for one in cavs) / len(cavs))


def unit_of(*activations: Tensor) -> float:
    """The root mean square of all entries of activations (N, D): divided by it they have a scale
    that a penalty or a margin can refer to, whatever the layer. 1 for activations that vanish.
    """
    count = sum(a.numel() for a in activations)
    total = sum(float(a.double().square().sum()) for a in activations)
    return (total / count) ** 0.5 or 1.0


def both(concept: Tensor, random: Tensor) -> tuple[Array, Array]:
    """(N + M, D) float64 activations and their labels, 1 for the concept and -1.

    Raises InputError for less than two rows on a side, for different widths and for values that are
    not finite.
    """
    for name, rows in (("concept", concept), ("random", random)):
        if rows.ndim != 2 or len(rows) < LEAST:
            given = f"{name} activations of shape {tuple(rows.shape)}"
            raise InputError(given, f"(N, D), N >= {LEAST}", "flatten them, or give more images")
    if concept.shape[1] != random.shape[1]:
        given = f"activations of width {concept.shape[1]} and {random.shape[1]}"
        raise InputError(given, "activations of one layer", "take both from the same layer")
    a = torch.cat([concept, random]).double().cpu().numpy()
    if not np.isfinite(a).all():
        given = "activations that are not finite"
        raise InputError(given, "finite numbers", "look for overflow in the network")
    return a, np.repeat([1.0, -1.0], [len(concept), len(random)])
