"""Translation-invariant gradients, "TI": smoothed by a kernel, as if shifted copies of the image
were attacked together (Dong et al. 2019).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from torchproof.attack.cases import Cases, Point
from torchproof.attack.combine import Attack
from torchproof.attack.oracle import Oracle
from torchproof.core.errors import InputError

_DEVIATIONS = 3.0  # the kernel's edge lies so many standard deviations from its centre


def gaussian(size: int, like: Tensor) -> Tensor:
    """(size,) weights that sum to 1: the normal density from -3 to 3 deviations."""
    at = torch.linspace(-_DEVIATIONS, _DEVIATIONS, size, dtype=torch.float64)
    weight = (-at.square() / 2).exp() if size > 1 else torch.ones(1, dtype=torch.float64)
    return (weight / weight.sum()).to(like)


@dataclass(frozen=True)
class TranslationInvariant:
    """The gradient convolved, channel by channel, with a Gaussian kernel of `size` x `size` pixels
    (Dong et al. 2019, eq. 9; zeros beyond the border).

    The paper's 15 is for images of 299 pixels; images of 32 want 5 or 7. A kernel of 3 does next to
    nothing: its outer weights lie at three standard deviations.
    """

    inner: Oracle
    size: int = 15

    def __post_init__(self) -> None:
        if self.size < 1 or self.size % 2 == 0:
            raise InputError(
                f"a kernel of {self.size} pixels", "an odd number >= 1", "try 15, or 5 for 32 x 32"
            )

    def __call__(self, cases: Cases, delta: Any, gradient: bool, progress: Tensor) -> Point:
        point = self.inner(cases, delta, gradient, progress)
        return point if point.grad is None else point._replace(grad=self._smooth(point.grad))

    def _smooth(self, grad: Any) -> Tensor:
        if not isinstance(grad, Tensor) or grad.dim() != 4:
            raise InputError(
                "a translation-invariant gradient of something that is no image",
                "a threat at the site Input",
                "leave TI out",
            )
        channels, half = grad.shape[1], self.size // 2
        line = gaussian(self.size, grad).expand(channels, 1, 1, -1)
        across = F.conv2d(grad, line, padding=(0, half), groups=channels)
        return F.conv2d(across, line.mT, padding=(half, 0), groups=channels)


def translation_invariant(attack: Attack, size: int = 15) -> Attack:
    """The attack with gradients smoothed by a Gaussian kernel, for transfer (TI, Dong et al.
    2019).
    """
    inner = attack.wrap
    return replace(attack, wrap=lambda oracle: TranslationInvariant(inner(oracle), size))
