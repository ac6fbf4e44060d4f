"""TCAV (Kim et al. 2018): does a class depend on a concept, and more than on random directions?"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from torchproof.concept.activations import BATCH, derivatives
from torchproof.concept.cav import Cav
from torchproof.core.errors import InputError

LEVEL = 0.05


@dataclass(frozen=True)
class Tcav:
    """The scores of one class: share of its n images whose logit grows along the concept's vector
    (Kim et al. 2018, eq. 2), one for each vector; `random` those of vectors between random images.

    p: of the two-sided t-test (Welch) between both, times `tests`, at most 1 (Bonferroni). The
    draws share the concept's images, so p is smaller than independent draws would make it.
    magnitude: mean directional derivative along each vector, in logits per unit of activation.
    """

    target: int
    n: int
    scores: tuple[float, ...]
    random: tuple[float, ...]
    magnitude: tuple[float, ...]
    p: float
    tests: int

    @property
    def score(self) -> float:
        """Mean of the scores over the concept's vectors, in [0, 1]."""
        return statistics.fmean(self.scores)

    @property
    def significant(self) -> bool:
        """Is p below 0.05?"""
        return self.p < LEVEL


def tcav(
    model: nn.Module, x: Tensor, target: int, layer: str, cavs: Sequence[Cav],
    random: Sequence[Cav], tests: int = 1, batch_size: int = BATCH,
) -> Tcav:  # fmt: skip
    """TCAV of images x (N, C, H, W) of class `target`, for vectors of several draws of the concept
    and for vectors between random sets; tests: how many scores are looked at in all.

    Raises InputError for less than two vectors on a side, and what `derivatives` raises.
    """
    for name, given in (("concept", cavs), ("random", random)):
        if len(given) < 2:
            told, remedy = f"{len(given)} {name} vectors", "draw random images several times"
            raise InputError(told, "at least two, for a test", remedy)
    vectors = torch.stack([one.vector for one in (*cavs, *random)])
    found = derivatives(model, x, target, layer, vectors, batch_size)
    shares = (found > 0).double().mean(0).tolist()
    ours, others = shares[: len(cavs)], shares[len(cavs) :]
    p = min(1.0, welch(ours, others) * tests)
    magnitude = found.mean(0)[: len(cavs)].tolist()
    return Tcav(target, len(x), tuple(ours), tuple(others), tuple(magnitude), p, tests)


def welch(one: Sequence[float], other: Sequence[float]) -> float:
    """The two-sided p of equal means (Welch 1947); 1 or 0 where neither side varies."""
    if len(set(one)) == len(set(other)) == 1:
        return float(one[0] == other[0])
    from scipy.special import stdtr  # late: a third of a second

    parts = [statistics.variance(side) / len(side) for side in (one, other)]
    error = sum(parts)
    freedom = error**2 / sum(
        part**2 / (len(side) - 1) for part, side in zip(parts, (one, other), strict=True)
    )
    t = (statistics.fmean(one) - statistics.fmean(other)) / math.sqrt(error)
    return float(2 * stdtr(freedom, -abs(t)))
