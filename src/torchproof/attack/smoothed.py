"""Smoothed: gradients averaged over noise, for models whose own gradients mislead (Athalye et al.
2018 call them shattered).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchproof.attack.cases import Cases, Point, undefined_in
from torchproof.attack.oracle import Oracle
from torchproof.core import keys
from torchproof.core.errors import InputError
from torchproof.core.values import tree


@dataclass(frozen=True)
class Smoothed:
    """The answer about the point itself, with the mean gradient of `samples` points around it.

    Neighbours are drawn evenly from the set shrunk to `reach` of its size, moved to the point and
    brought into the set; they are keyed by the problem and its progress. A question with gradient
    costs samples + 1 forwards and `samples` backwards.
    """

    inner: Oracle
    samples: int = 8
    reach: float = 0.5

    def __post_init__(self) -> None:
        if self.samples < 1 or not 0 < self.reach <= 1:
            raise InputError(
                f"samples = {self.samples}, reach = {self.reach}",
                "samples >= 1 and 0 < reach <= 1",
                "8 samples within half the radius are enough for ripples",
            )

    def __call__(self, cases: Cases, delta: Any, gradient: bool, progress: Tensor) -> Point:
        here = self.inner(cases, delta, False, progress)
        if not gradient:
            return here
        step = progress.double().view(torch.int64)  # its bits: each step has another number
        total: Any = tree(torch.zeros_like, delta)
        forward, backward = here.cost
        around: list[Point] = []
        for number in range(self.samples):
            noise: Any = cases.set.sample(keys.mix(cases.key, step, "smoothed", number))
            near: Any = tree(lambda d, u: d + self.reach * u, delta, noise)
            point = self.inner(cases, cases.set.project(near), True, progress)
            total = tree(lambda t, g: t.add_(g), total, point.grad)
            forward, backward = forward + point.cost[0], backward + point.cost[1]
            around.append(point._replace(grad=None))
        grad = tree(lambda t: t / self.samples, total)
        undefined = undefined_in(around)
        return here._replace(grad=grad, cost=(forward, backward), undefined=undefined)
