"""The noise a classifier is smoothed with, in units of the input, where pixels are in [0, 1].

Every draw is a pure function of (key, step): see `torchproof.core.keys`. Numbers have 23 random
bits, so that tails end at 5.8 (Gaussian) and 11 (Laplace) standard deviations.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from torchproof.core import keys
from torchproof.core.errors import InputError
from torchproof.verify.smoothing.ablation import check
from torchproof.verify.smoothing.probabilities import Floats, positive
from torchproof.verify.smoothing.theories import NEYMAN_PEARSON, theory


@dataclass(frozen=True)
class Noise(ABC):
    """A distribution over images around an image. kind: its name in tables; norm: in which its
    certificates are radii.
    """

    kind: ClassVar[str]
    norm: ClassVar[str]

    @property
    @abstractmethod
    def parameters(self) -> tuple[float, ...]:
        """What its radius functions take after the probabilities."""

    @abstractmethod
    def noisy(self, x: Tensor, key: Tensor, step: Tensor) -> Tensor:
        """(P, C, H, W): draw `step` (P,) of `key` (P,) or (1,), around x (1 or P, C, H, W)."""

    def radius(self, lower: Any, upper: Any | None = None, by: str = NEYMAN_PEARSON) -> Floats:
        """Certified radii of `by`, a name of THEORIES, from bounds of the probabilities."""
        return theory(by, self.kind)(lower, upper, *self.parameters)


@dataclass(frozen=True)
class Additive(Noise):
    """Independent noise on every entry, with standard deviation sigma.

    The sum is not cut to [0, 1]: the model sees values outside, as it did in training.
    """

    sigma: float

    def __post_init__(self) -> None:
        positive(sigma=self.sigma)

    @abstractmethod
    def draw(self, key: Tensor, step: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """(P, *shape) of it."""

    def noisy(self, x: Tensor, key: Tensor, step: Tensor) -> Tensor:
        return self.draw(key, step, tuple(x.shape[1:]), x.dtype).add_(x)


@dataclass(frozen=True)
class Gaussian(Additive):
    """N(0, sigma^2)."""

    kind: ClassVar[str] = "gaussian"
    norm: ClassVar[str] = "l2"

    @property
    def parameters(self) -> tuple[float, ...]:
        return (self.sigma,)

    def draw(self, key: Tensor, step: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return keys.normal(key, step, shape, dtype=dtype).mul_(self.sigma)


@dataclass(frozen=True)
class Laplace(Additive):
    """Laplace noise of scale b = sigma / sqrt(2)."""

    kind: ClassVar[str] = "laplace"
    norm: ClassVar[str] = "l1"

    @property
    def parameters(self) -> tuple[float, ...]:
        return (self.sigma / math.sqrt(2),)

    def draw(self, key: Tensor, step: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        u = keys.uniform(key, step, shape, dtype=dtype)
        length = torch.minimum(u, 1 - u).mul_(2).log_()  # -|noise| / b, by the inverse of its law
        return length.mul_(torch.sign(0.5 - u)).mul_(self.parameters[0])


@dataclass(frozen=True)
class Uniform(Additive):
    """Uniform noise in [-lambda, lambda], lambda = sqrt(3) sigma."""

    kind: ClassVar[str] = "uniform"
    norm: ClassVar[str] = "l1"

    @property
    def parameters(self) -> tuple[float, ...]:
        return (self.sigma * math.sqrt(3),)

    def draw(self, key: Tensor, step: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        u = keys.uniform(key, step, shape, dtype=dtype)
        return u.sub_(0.5).mul_(2 * self.parameters[0])


@dataclass(frozen=True)
class Ablation(Noise):
    """`keep` of `pixels` = H W pixels as they are, all channels of the others set to `fill`
    (Levine and Feizi 2020, who mark them in channels of their own: give such a model as one that
    finds them itself). The certificate holds for any fill.
    """

    keep: int
    pixels: int
    fill: float = 0.0
    kind: ClassVar[str] = "ablation"
    norm: ClassVar[str] = "l0"

    def __post_init__(self) -> None:
        check(self.keep, self.pixels)

    @property
    def parameters(self) -> tuple[float, ...]:
        return self.keep, self.pixels

    def noisy(self, x: Tensor, key: Tensor, step: Tensor) -> Tensor:
        if x.shape[-2] * x.shape[-1] != self.pixels:
            given = f"images of {x.shape[-2]} x {x.shape[-1]} pixels"
            raise InputError(given, f"{self.pixels} pixels", "make Ablation(pixels=...) agree")
        place = torch.arange(self.pixels, device=x.device)
        hashes = keys.mix(key.unsqueeze(-1), step.unsqueeze(-1), place)
        kept = torch.zeros_like(hashes, dtype=torch.bool)
        kept.scatter_(1, hashes.topk(self.keep, dim=1).indices, True)
        return torch.where(kept.view(-1, 1, *x.shape[-2:]), x, x.new_tensor(self.fill))


ADDITIVE: dict[str, type[Additive]] = {n.kind: n for n in (Gaussian, Laplace, Uniform)}
