"""Input diversity, "DI": gradients at randomly shrunk and padded copies of the image, so that they
depend less on the network they were taken from (Xie et al. 2019).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from torchproof.attack.cases import Cases, Point
from torchproof.attack.combine import Attack
from torchproof.attack.oracle import Oracle
from torchproof.core import keys
from torchproof.core.errors import InputError


@dataclass(frozen=True)
class Shift:
    """Linear maps of images (P, C, H, W), one per image: columns (P, H, H), rows (P, W, W)."""

    columns: Tensor
    rows: Tensor

    def __call__(self, images: Tensor) -> Tensor:
        return self.columns[:, None] @ images @ self.rows[:, None].mT

    def transposed(self, images: Tensor) -> Tensor:
        """The adjoint map, which takes a gradient at the changed image back to the image."""
        return self.columns[:, None].mT @ images @ self.rows[:, None]


def placed(size: int, side: Tensor, offset: Tensor, dtype: torch.dtype) -> Tensor:
    """(P, size, size) matrices that shrink `size` samples to `side` (P,) by linear interpolation,
    and place them at `offset` (P,) among zeros.

    Samples lie at the centres of their cells, as torch's interpolation without aligned corners has
    it.
    """
    at = torch.arange(size, dtype=dtype, device=side.device)
    within = at - offset[:, None]
    source = ((within + 0.5) * (size / side[:, None].to(dtype)) - 0.5).clamp_min(0)
    weight = (1 - (source[:, :, None] - at).abs()).clamp_min(0)
    inside = (within >= 0) & (within < side[:, None])
    return weight * inside[:, :, None]


@dataclass(frozen=True)
class InputDiversity:
    """Loss and gradient at a changed copy of the image; verdict and score at the image itself.

    With probability `chance` the image is shrunk to a random size, at least the share `least` of
    its own, and padded with zeros, at a random place, to the size it had; otherwise it stays. Drawn
    per image and step. A question for a gradient costs one more forward, for the verdict.

    Deviations: the paper enlarges 299 pixels to at most 330, which networks for one size do not
    take; interpolation is linear, not by the nearest pixel; each image has a size of its own.
    """

    inner: Oracle
    chance: float = 0.5
    least: float = 0.9

    def __post_init__(self) -> None:
        if not (0 <= self.chance <= 1 and 0 < self.least < 1):
            raise InputError(
                f"chance = {self.chance}, least = {self.least}",
                "a probability, and a share in (0, 1)",
                "the usual values are 0.5 and 0.9",
            )

    def __call__(self, cases: Cases, delta: Any, gradient: bool, progress: Tensor) -> Point:
        here = self.inner(cases, delta, False, progress)
        if not gradient:
            return here
        shift = self._shift(cases, delta, progress)
        # the map is linear: the copy of a sum is the sum of copies
        changed = replace(cases, x=shift(cases.x))
        there = self.inner(changed, shift(delta), True, progress)
        back: Any = there.grad
        forward, backward = (a + b for a, b in zip(here.cost, there.cost, strict=True))
        grad, cost = shift.transposed(back), (forward, backward)
        return here._replace(loss=there.loss, grad=grad, cost=cost, undefined=there.undefined)

    def _shift(self, cases: Cases, delta: Any, progress: Tensor) -> Shift:
        x = cases.x
        if not isinstance(delta, Tensor) or delta.shape != x.shape or x.dim() != 4:
            raise InputError(
                "input diversity for a perturbation that is not one image per example",
                "a threat at the site Input",
                "leave DI out",
            )
        step = progress.double().view(torch.int64)  # its bits: each step has another number
        key = keys.mix(cases.key, step, "input diversity")
        u = keys.uniform(key, 0, (4,), dtype=torch.float64)
        stays = u[:, 0] >= self.chance
        maps = []
        for number, size in enumerate(x.shape[2:], 2):
            fewest = min(max(int(self.least * size), 1), max(size - 1, 1))
            side = (fewest + u[:, 1] * max(size - fewest, 1)).long()
            side = torch.where(stays, size, side)
            offset = (u[:, number] * (size - side + 1)).long()
            maps.append(placed(size, side, offset, x.dtype))
        return Shift(*maps)


def diverse(attack: Attack, chance: float = 0.5, least: float = 0.9) -> Attack:
    """The attack with gradients at randomly shrunk and padded copies, for transfer (DI, Xie et al.
    2019).
    """
    inner = attack.wrap
    return replace(attack, wrap=lambda oracle: InputDiversity(inner(oracle), chance, least))
