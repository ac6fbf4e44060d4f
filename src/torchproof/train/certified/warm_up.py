"""Regularisers and initial weights with which a short ramp suffices (Shi, Wang, Zhang, Yi and Hsieh
2021).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from torchproof.core import keys
from torchproof.core.errors import InputError
from torchproof.train.certified.bounding import Bounding
from torchproof.train.certified.layers import switching
from torchproof.train.method import Batch
from torchproof.verify.interval import Interval

LEAST = 1e-3  # share of the radius before the ramp: ratios of widths need some width
TINY = 1e-12


@dataclass(frozen=True)
class FastWarmUp(Bounding):
    """A term for sums: lam (1 - share of the ramp) (L_tight + L_relu), which keeps intervals from
    growing with depth and ReLUs from dying out (Shi et al. 2021, as in the authors' code).

    Per layer k of ReLUs, r the mean radius and c the centres of the intervals before it:
    L_tight = mean_k [tol - r_0 / r_k]_+ / tol, r_0 that of the input; L_relu = mean_k ([tol -
    min(a, 1/a)]_+ + [tol - min(b, 1/b)]_+) / tol, a and b the sums of c, and of its squared
    deviations from the layer's mean, over active units by those over inactive ones. Deviation:
    means are of each image, where the authors' are of the batch, so that batches can be split. Use
    the ramp of the method beside it: Sum(IBP(), FastWarmUp()).
    """

    lam: float = 0.5
    tol: float = 0.5

    regulariser: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 <= self.lam < math.inf and 0 < self.tol < math.inf):
            given = f"lam = {self.lam!r}, tol = {self.tol!r}"
            raise InputError(given, "numbers >= 0 and > 0", "0.5 and 0.5 are the authors'")

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        share = self.share(batch)
        weight = self.lam * (1 - share)
        passed = self.bounds(model, batch, batch.x, self.due(max(share, LEAST)))
        first = _radius(passed.intervals[passed.walk.graph.input]).detach()
        terms = [self._tight(first, z) + self._relu(z) for z in switching(passed)]
        return weight * torch.stack(terms).mean(0)

    def _tight(self, first: Tensor, z: Interval) -> Tensor:
        return (self.tol - first / _radius(z).clamp_min(TINY)).clamp_min(0) / self.tol

    def _relu(self, z: Interval) -> Tensor:
        lower, upper = z.lower.flatten(1), z.upper.flatten(1)
        centre = (lower + upper) / 2
        active, dead = (lower > 0).to(centre), (upper < 0).to(centre)
        spread = (centre - centre.mean(1, keepdim=True)).square()
        means = _balance((centre * active).sum(1), -(centre * dead).sum(1))
        variances = _balance((spread * active).sum(1), (spread * dead).sum(1))
        missing = (self.tol - means).clamp_min(0) + (self.tol - variances).clamp_min(0)
        return missing / self.tol


def _radius(z: Interval) -> Tensor:
    """(B,) half the mean width."""
    return z.width.flatten(1).mean(1) / 2


def _balance(a: Tensor, b: Tensor) -> Tensor:
    """(B,) the smaller of a / b and b / a, 0 where one of them is 0."""
    return torch.minimum(a / b.clamp_min(TINY), b / a.clamp_min(TINY))


def initialise(model: nn.Module, seed: int = 0) -> None:
    """Draws the weights of convolutions and linear layers, but for the last, from N(0, sqrt(2 pi) /
    n_in), in place: intervals then keep their width from layer to layer (Shi et al. 2021, sec.
    3.2).

    Biases stay. Deviation: weights behind residual sums are not halved.
    """
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
    found = [(name, m.weight) for name, m in model.named_modules() if isinstance(m, kinds)]
    with torch.no_grad():
        for name, weight in found[:-1]:
            key = keys.mix(seed, name, "initial")
            drawn = keys.normal(key, 0, tuple(weight.shape), dtype=torch.float64)[0]
            weight.copy_(drawn * math.sqrt(2 * math.pi) / weight[0].numel())
