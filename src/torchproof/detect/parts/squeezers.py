"""Squeezers: images to images with less room to hide in (Xu, Evans and Qi 2018, section 3)."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from torchproof.core.errors import InputError

STEEP = 10.0  # of the sigmoids that stand for the steps of BitDepth in the gradient


class Squeezer(ABC):
    """Images x (B, C, H, W) in [0, 1] to images of the same shape; a row does not depend on the
    others. `gradient` says what is differentiated.
    """

    gradient: ClassVar[str] = "exact"

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class BitDepth(Squeezer):
    """round(x (2^bits - 1)) / (2^bits - 1), halves to the even number.

    A staircase has no gradient: backwards each step is a sigmoid of the way through it (BPDA,
    Athalye et al. 2018), sigmoid(10 t), t from -1/2 to 1/2. Its slope is 1 on average and largest
    where a pixel is about to change its level; the identity, whose slope is 1 everywhere, spends
    the adversary's budget on pixels that no budget can change. Raises InputError unless 1 <= bits
    <= 16.
    """

    bits: int
    gradient: ClassVar[str] = "sigmoids for the steps of the bit depth"

    def __post_init__(self) -> None:
        _whole("bits", self.bits, 1, 16)

    def __call__(self, x: Tensor) -> Tensor:
        levels = 2**self.bits - 1
        exact = (x.detach() * levels).round() / levels
        through = x * levels - (x.detach() * levels).floor() - 0.5
        smooth = torch.sigmoid(STEEP * through) / levels
        squeezed: Tensor = exact + (smooth - smooth.detach())  # bit-exact in value
        return squeezed


@dataclass(frozen=True)
class Median(Squeezer):
    """The median of `window` x `window` pixels around each, channel by channel; images continue as
    in a mirror, the pixel at the edge counted twice.

    As the authors' code has it: a window of even size reaches one pixel further up and left, and of
    an even number of pixels the upper one of the middle is taken. The gradient is that of the
    median: it goes to the selected pixel. Raises InputError for window < 2.
    """

    window: int = 2

    def __post_init__(self) -> None:
        _whole("window", self.window, 2, 99)

    def __call__(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        before = self.window // 2
        wide = mirrored(x, before, self.window - 1 - before, twice=True)
        reach = range(self.window)
        around = [wide[:, :, i : i + height, j : j + width] for i in reach for j in reach]
        median: Tensor = torch.stack(around, -1).sort(-1).values[..., len(around) // 2]
        return median


@dataclass(frozen=True)
class NonLocalMeans(Squeezer):
    """Each pixel becomes the weighted mean of the `search` x `search` pixels around it, its weights
    exp(-d / h^2), d the mean squared difference of the `patch` x `patch` pixels around both, over
    all channels, and h = strength / 255 (Buades et al. 2005). "13-3-2" of the paper is search 13,
    patch 3, strength 2. Even sizes become the next odd ones, as in OpenCV.

    Differentiable exactly, weights included. Images continue as in a mirror. Deviations: the
    authors call OpenCV on bytes, which takes brightness and colour (Lab) apart, rounds, and sets
    weights below 0.001 to 0; here all channels share the weights and nothing is rounded. Second
    derivatives are not offered. Raises InputError for sizes below 1 and a strength that is not
    positive.
    """

    search: int = 13
    patch: int = 3
    strength: float = 2.0

    def __post_init__(self) -> None:
        _whole("search", self.search, 1, 99)
        _whole("patch", self.patch, 1, 99)
        if not 0 < self.strength < float("inf"):
            given = f"strength = {self.strength!r}"
            raise InputError(given, "a number > 0, in grey levels of 255", "write strength=2")

    def __call__(self, x: Tensor) -> Tensor:
        reach, half = self.search // 2, self.patch // 2
        wide = mirrored(x, reach + half, reach + half)
        scale = (255 / self.strength) ** 2
        means: Tensor = _Means.apply(wide, reach, half, scale)  # type: ignore[no-untyped-call]
        return means


class _Means(torch.autograd.Function):
    """Non-local means of images continued on all sides, with its gradient worked out by hand: the
    graph of some 170 shifts would take seven times as long as the filter, and much memory.
    """

    @staticmethod
    def forward(ctx: Any, wide: Tensor, reach: int, half: int, scale: float) -> Tensor:
        height, width = (n - 2 * (reach + half) for n in wide.shape[2:])
        total = wide.new_zeros(*wide.shape[:2], height, width)
        weights = torch.zeros_like(total[:, :1])
        for _, _, weight, pixels in _shifts(wide, reach, half, scale):
            total.addcmul_(weight, pixels)
            weights += weight
        means = total.div_(weights)  # a pixel's own weight is 1
        ctx.save_for_backward(wide, means, weights)
        ctx.sizes = reach, half, scale
        return means

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        wide, means, weights = ctx.saved_tensors
        reach, half, scale = ctx.sizes
        share = grad / weights
        out = torch.zeros_like(wide)
        own = torch.zeros_like(_inner(wide, reach))
        at_mean = (share * means).sum(1, keepdim=True)
        for place, apart, weight, pixels in _shifts(wide, reach, half, scale):
            of_weight = (share * pixels).sum(1, keepdim=True) - at_mean
            of_square = F.pad(of_weight * weight, (2 * half,) * 4)
            of_square = F.avg_pool2d(of_square, 2 * half + 1, 1)
            push = apart * of_square.mul_(-2 * scale / wide.shape[1])
            own += push
            near = out[place]
            near -= push
            _inner(near, half).addcmul_(weight, share)
        _inner(out, reach).add_(own)
        return out, None, None, None


Slices = tuple[slice, slice, slice, slice]


def _shifts(
    wide: Tensor, reach: int, half: int, scale: float
) -> Iterator[tuple[Slices, Tensor, Tensor, Tensor]]:
    """For each place of the search window: where the shifted image lies in `wide`, by how much the
    image differs from it, the weights (B, 1, H, W), and the shifted pixels (B, C, H, W).
    """
    own = _inner(wide, reach)
    height, width = own.shape[2:]
    every = slice(None)
    for i, j in itertools.product(range(2 * reach + 1), repeat=2):
        place = (every, every, slice(i, i + height), slice(j, j + width))
        apart = own - wide[place]
        far = F.avg_pool2d(apart.square().mean(1, keepdim=True), 2 * half + 1, 1)
        yield place, apart, far.mul_(-scale).exp_(), _inner(wide[place], half)


def _inner(x: Tensor, border: int) -> Tensor:
    """x (B, C, H, W) without `border` pixels on all sides: a view."""
    return x[:, :, border : x.shape[2] - border, border : x.shape[3] - border]


def mirrored(x: Tensor, before: int, after: int, twice: bool = False) -> Tensor:
    """x (B, C, H, W) continued as in a mirror by `before` pixels up and left and `after` down and
    right, however small it is; twice: is the pixel at the edge repeated?
    """
    for dim in (2, 3):
        size = x.shape[dim]
        period = 2 * size if twice else max(2 * size - 2, 1)
        places = torch.arange(-before, size + after, device=x.device) % period
        turned = period - places - (1 if twice else 0)
        x = x.index_select(dim, torch.where(places < size, places, turned))
    return x


def _whole(name: str, value: int, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        given = f"{name} = {value!r}"
        raise InputError(given, f"a whole number from {low} to {high}", f"write {name}={low + 1}")


MNIST: tuple[Squeezer, ...] = (BitDepth(1), Median(2))
"""The best sets of squeezers of the paper, by data set."""
CIFAR10: tuple[Squeezer, ...] = (BitDepth(5), Median(2), NonLocalMeans(13, 3, 2.0))
IMAGENET: tuple[Squeezer, ...] = (BitDepth(5), Median(2), NonLocalMeans(11, 3, 4.0))
