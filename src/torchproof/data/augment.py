"""Augmentations: batched, and keyed per example, so an image's fate does not depend on its batch.

Each is called with images x (B, C, H, W) and keys (B,), int64, which the caller mixes from the
seed, the example's id and the epoch; it draws from nothing else, leaves x as it is and keeps its
dtype and device. Raises InputError where the shapes do not fit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from torchproof.core import keys
from torchproof.core.errors import InputError

Augmentation = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Crop:
    """Pads with `pad` black pixels on all sides, crops at random (He 2016, sec. 4.2)."""

    pad: int = 4

    def __post_init__(self) -> None:
        _positive("pad", self.pad)

    def __call__(self, x: Tensor, key: Tensor) -> Tensor:
        key = _drawn(x, key, "crop")
        corner = keys.integers(key, 0, 2 * self.pad + 1, (2,))
        height, width = x.shape[2:]
        windows = F.pad(x, (self.pad,) * 4).unfold(2, height, 1).unfold(3, width, 1)
        return windows[torch.arange(len(x)), :, corner[:, 0], corner[:, 1]]


@dataclass(frozen=True)
class Flip:
    """Mirrors left and right, every other image on average."""

    def __call__(self, x: Tensor, key: Tensor) -> Tensor:
        heads = keys.signs(_drawn(x, key, "flip"), 0, (1, 1, 1)) > 0
        return torch.where(heads, x.flip(3), x)


@dataclass(frozen=True)
class Cutout:
    """Paints a square of `size` pixels, centred anywhere in the image, in `fill` (DeVries 2017).

    The square is cut at the border. The authors' code paints after normalisation, where 0 is the
    mean colour, and makes odd sizes one pixel smaller; here 0 is black and the square has the size
    asked for.
    """

    size: int = 16
    fill: float = 0.0

    def __post_init__(self) -> None:
        _positive("size", self.size)
        if not 0.0 <= self.fill <= 1.0:
            raise InputError(f"Cutout(fill={self.fill})", "a colour in [0, 1]", "try 0 or 0.5")

    def __call__(self, x: Tensor, key: Tensor) -> Tensor:
        key = _drawn(x, key, "cutout")
        rows, columns = (
            self._covered(keys.integers(key, 0, side, (1,), stream), side)
            for stream, side in enumerate(x.shape[2:])
        )
        return x.masked_fill((rows.unsqueeze(2) & columns.unsqueeze(1)).unsqueeze(1), self.fill)

    def _covered(self, centre: Tensor, side: int) -> Tensor:
        """(B, side): is this row or column within the square around centre (B, 1)?"""
        offset = torch.arange(side, device=centre.device) - (centre - self.size // 2)
        return (offset >= 0) & (offset < self.size)


@dataclass(frozen=True)
class GaussianNoise:
    """Adds normal noise to the share p of the images, of a standard deviation drawn from `sigmas`
    for each, and clips to [0, 1]; as in Yan et al. 2020 by default.
    """

    sigmas: tuple[float, ...] = (50 / 255, 75 / 255, 100 / 255)
    p: float = 0.5

    def __post_init__(self) -> None:
        known = isinstance(self.sigmas, tuple) and len(self.sigmas) > 0
        if not known or not all(0 < s < math.inf for s in self.sigmas) or not 0 <= self.p <= 1:
            remedy = "write GaussianNoise(sigmas=(100/255,), p=0.5)"
            raise InputError(f"{self!r}", "a tuple of numbers > 0, and a share p", remedy)

    def __call__(self, x: Tensor, key: Tensor) -> Tensor:
        key = _drawn(x, key, "gaussian noise")
        wide = torch.promote_types(x.dtype, torch.float32)
        which = keys.integers(key, 0, len(self.sigmas), (1, 1, 1))
        sigma = torch.tensor(self.sigmas, dtype=wide, device=x.device)[which]
        noise = sigma * keys.normal(key, 1, tuple(x.shape[1:]), dtype=wide)
        noisy = keys.uniform(key, 2, (1, 1, 1)) < self.p
        return torch.where(noisy, (x + noise).clamp(0, 1).to(x.dtype), x)


@dataclass(frozen=True, init=False, repr=False)
class Compose:
    """Augmentations one after the other, each with keys of its own: `Compose(Crop(4), Flip())`."""

    parts: tuple[Augmentation, ...]

    def __init__(self, *parts: Augmentation) -> None:
        wrong = [part for part in parts if not callable(part)]
        if wrong:
            remedy = f"use {', '.join(AUGMENTATIONS)}"
            raise InputError(f"Compose({wrong[0]!r})", "augmentations", remedy)
        object.__setattr__(self, "parts", parts)

    def __repr__(self) -> str:
        return f"Compose({', '.join(map(repr, self.parts))})"

    def __call__(self, x: Tensor, key: Tensor) -> Tensor:
        for place, part in enumerate(self.parts):
            x = part(x, keys.mix(key, place))
        return x


AUGMENTATIONS: dict[str, Callable[..., Augmentation]] = {
    "Crop": Crop,
    "Flip": Flip,
    "Cutout": Cutout,
    "GaussianNoise": GaussianNoise,
    "Compose": Compose,
}


def _drawn(x: Tensor, key: Tensor, purpose: str) -> Tensor:
    """The keys for one purpose, on the device of x."""
    if x.ndim != 4 or key.shape != (len(x),) or key.dtype != torch.int64:
        given = f"images {tuple(x.shape)} with keys {tuple(key.shape)} of {key.dtype}"
        remedy = "make one key per image with torchproof.core.keys.mix"
        raise InputError(given, "images (B, C, H, W) with keys (B,) of int64", remedy)
    return keys.mix(key.to(x.device), purpose)


def _positive(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{name}={value!r}", "a whole number of pixels, at least 1", "try 4")
