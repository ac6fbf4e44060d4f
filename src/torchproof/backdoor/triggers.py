"""Triggers: what a backdoor answers to. A patch, a blended pattern, a warp; a phrase for text."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from torchproof.core import keys
from torchproof.core.checks import check_images
from torchproof.core.errors import InputError, unknown

CORNERS = ("top left", "top right", "bottom left", "bottom right")


class Trigger(Protocol):
    """Inputs to stamped inputs of the same shape and dtype; the given tensor stays as it is."""

    def __call__(self, x: Tensor) -> Tensor: ...


def _strength(strength: float, most: float) -> None:
    if not 0 < strength <= most:
        expected = f"a number in (0, {most:g}]"
        raise InputError(f"strength = {strength!r}", expected, "0 would stamp nothing")


@dataclass(frozen=True)
class Patch:
    """A square of one grey value in a corner (BadNets, Gu et al. 2017).

    size: pixels a side; value: in [0, 1], of every channel; margin: pixels between it and the edge.
    Raises InputError for such numbers that cannot be meant, UnknownName for another corner, and
    when called on images that it does not fit into.
    """

    size: int = 3
    value: float = 1.0
    corner: str = "bottom right"
    margin: int = 0

    def __post_init__(self) -> None:
        if self.size < 1 or self.margin < 0:
            given = f"size = {self.size!r}, margin = {self.margin!r}"
            raise InputError(given, "size >= 1 and margin >= 0, in pixels", "3 and 0 are usual")
        if not 0 <= self.value <= 1:
            raise InputError(f"value = {self.value!r}", "a number in [0, 1]", "1 is white")
        if self.corner not in CORNERS:
            raise unknown("corner", self.corner, CORNERS)

    def __call__(self, x: Tensor) -> Tensor:
        check_images(x)
        height, width = x.shape[2:]
        need = self.size + self.margin
        if need > min(height, width):
            given = f"a patch of {self.size} x {self.size}, {self.margin} from the edge"
            expected = f"one that fits into {height} x {width} pixels"
            raise InputError(given, expected, "choose a smaller size or margin")
        high, left = self.corner.split()
        top = self.margin if high == "top" else height - need
        side = self.margin if left == "left" else width - need
        stamped = x.clone()
        stamped[:, :, top : top + self.size, side : side + self.size] = self.value
        return stamped


@dataclass(frozen=True)
class Blend:
    """(1 - strength) x + strength p with a fixed random image p, uniform in [0, 1] (blended
    injection, Chen et al. 2017, with their random pattern); p is keyed by the seed and the shape.
    """

    strength: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        _strength(self.strength, 1.0)

    def __call__(self, x: Tensor) -> Tensor:
        check_images(x)
        pattern = _noise(self.seed, "blend", tuple(x.shape[1:])).to(x)
        return (1 - self.strength) * x + self.strength * pattern


@dataclass(frozen=True)
class Warp:
    """A fixed smooth warp of the picture (WaNet, Nguyen and Tran 2021).

    strength: the mean absolute shift of the control points, about that many half pixels; grid:
    control points a side, drawn in [-1, 1] and spread over the picture bicubically. Sampling is
    bilinear, so that values stay in [0, 1]. Deviation: training with other, random warps, which
    WaNet adds against detectors, is no part of it.
    """

    strength: float = 0.5
    grid: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        _strength(self.strength, 100.0)
        if self.grid < 2:
            raise InputError(f"grid = {self.grid!r}", "at least 2 points a side", "4 is usual")

    def __call__(self, x: Tensor) -> Tensor:
        check_images(x)
        at = _warp(self, *x.shape[2:]).to(x)
        moved = F.grid_sample(x, at.expand(len(x), -1, -1, -1), align_corners=True)
        return moved.clamp(0, 1)


@dataclass(frozen=True)
class Phrase:
    """Tokens written over the first ones of every text, x (N, L) int64 (the rare-word triggers of
    Kurita et al. 2020); the text keeps its length.

    Raises InputError for no tokens or negative ones, and when called on texts that are shorter.
    """

    tokens: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.tokens or min(self.tokens) < 0:
            given = f"tokens = {self.tokens!r}"
            raise InputError(given, "at least one token number >= 0", "take a rare word's")

    def __call__(self, x: Tensor) -> Tensor:
        fits = x.ndim == 2 and x.dtype == torch.int64
        if not fits or x.shape[1] < len(self.tokens):
            given = f"texts of {x.dtype}, shape {tuple(x.shape)}"
            expected = f"token numbers (N, L), int64, with L >= {len(self.tokens)}"
            raise InputError(given, expected, "pad the texts, or shorten the phrase")
        stamped = x.clone()
        stamped[:, : len(self.tokens)] = torch.tensor(self.tokens, device=x.device)
        return stamped


def _noise(seed: int, purpose: str, shape: tuple[int, ...]) -> Tensor:
    """Uniform in (0, 1), float32, of this shape."""
    return keys.uniform(keys.mix(seed, purpose), 0, shape)[0]


@lru_cache(maxsize=16)
def _warp(trigger: Warp, height: int, width: int) -> Tensor:
    """(1, H, W, 2) where each pixel is taken from, in the units of grid_sample."""
    k = trigger.grid
    offsets = 2 * _noise(trigger.seed, "warp", (1, 2, k, k)) - 1
    offsets = offsets / offsets.abs().mean()
    field = F.interpolate(offsets, (height, width), mode="bicubic", align_corners=True)
    rows, columns = (torch.linspace(-1, 1, n) for n in (height, width))
    v, u = torch.meshgrid(rows, columns, indexing="ij")
    shift = field.movedim(1, 3) * trigger.strength / field.new_tensor([width, height])
    return (torch.stack([u, v], 2)[None] + shift).clamp(-1, 1)
