"""Masks: where an image may change. Rules that a threat applies to each image it meets.

A threat sees images, not their numbers: whatever differs from image to image is keyed by the seed
and by the image's own pixels, so batch size and order change nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from torchproof.attack.untouched import untouched
from torchproof.core import keys
from torchproof.core.errors import InputError
from torchproof.core.sites import Model


def image_keys(x: Tensor) -> Tensor:
    """(B,) one int64 per image x (B, C, H, W) in [0, 1], from its pixels as bytes.

    The floating type does not matter; images that differ by less than half a grey level share one.
    """
    levels = x.detach().mul(255).round().long().flatten(1)
    place = keys.mix("pixel", torch.arange(levels.shape[1], device=x.device))
    return keys.mix("image", (levels * (place | 1)).sum(1))


class Mask(ABC):
    """A rule for the region of an image."""

    @abstractmethod
    def __call__(self, model: Model, x: Tensor) -> Tensor:
        """For images x (B, C, H, W): true where they may change, (B or 1, C or 1, H, W) bool."""


def _whole(value: int, what: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{what} = {value!r}", "a whole number >= 1", f"count {what} in pixels")


def _fits(edge: int, x: Tensor) -> tuple[int, int]:
    """Height and width of the images; raises InputError for an edge that is longer."""
    height, width = x.shape[-2:]
    if edge > min(height, width):
        given = f"a square of edge {edge} in images of {height} x {width}"
        raise InputError(given, f"an edge of at most {min(height, width)}", "choose a smaller one")
    return height, width


def _square(x: Tensor, edge: int, top: Tensor, left: Tensor) -> Tensor:
    """(B, 1, H, W) squares with the given upper left corners, each (B,)."""
    height, width = x.shape[-2:]
    i = torch.arange(height, device=x.device) - top[:, None]
    j = torch.arange(width, device=x.device) - left[:, None]
    rows, columns = (i >= 0) & (i < edge), (j >= 0) & (j < edge)
    return (rows[:, :, None] & columns[:, None, :])[:, None]


@dataclass(frozen=True)
class Given(Mask):
    """A mask for all images, (H, W) or (C, H, W); or one per image, by `Given.each(x, masks)`."""

    mask: Tensor
    images: Tensor | None = None

    @classmethod
    def each(cls, x: Tensor, masks: Tensor) -> Given:
        """masks (N, C or 1, H, W) for the images x (N, C, H, W).

        Raises InputError for another number of masks, and for different masks of one image.
        """
        if masks.dim() != 4 or len(masks) != len(x):
            given = f"masks of shape {tuple(masks.shape)} for {len(x)} images"
            raise InputError(given, "(N, C, H, W), one per image", "give each image its mask")
        own, masks = image_keys(x), masks.to(x.device, torch.bool)
        first = (own[:, None] == own[None]).int().argmax(1)
        if not torch.equal(masks[first], masks):
            remedy = "attack the copies of an image in runs of their own"
            raise InputError("one image twice with different masks", "one mask per image", remedy)
        return cls(masks, own)

    def __call__(self, model: Model, x: Tensor) -> Tensor:
        mask = self.mask.to(x.device, torch.bool)
        if self.images is None:
            return mask.reshape(1, *(1,) * (3 - mask.dim()), *mask.shape)
        same = image_keys(x)[:, None] == self.images.to(x.device)[None]
        if not bool(same.any(1).all()):
            remedy = "make the masks with Given.each for the very images that are attacked"
            raise InputError("an image without a mask", "one of the images given", remedy)
        return mask[same.int().argmax(1)]


@dataclass(frozen=True)
class Centre(Mask):
    """The square of `edge` pixels in the middle (90, 120 and 150 of 224 in Ozbulak et al. 2020)."""

    edge: int

    def __post_init__(self) -> None:
        _whole(self.edge, "edge")

    def __call__(self, model: Model, x: Tensor) -> Tensor:
        height, width = _fits(self.edge, x)
        corner = torch.tensor([(height - self.edge) // 2, (width - self.edge) // 2]).to(x.device)
        return _square(x, self.edge, corner[:1], corner[1:])


@dataclass(frozen=True)
class Frame(Mask):
    """All but the centre square of edge `inner` (204, 190, 166 of 224 in Ozbulak et al. 2020)."""

    inner: int

    def __post_init__(self) -> None:
        _whole(self.inner, "inner")

    def __call__(self, model: Model, x: Tensor) -> Tensor:
        return ~Centre(self.inner)(model, x)


@dataclass(frozen=True)
class Scattered(Mask):
    """Each pixel with probability `share`, other ones in each image (Ozbulak et al. 2020).

    Deviation: shares are exact, where the authors' code knows whole percents only.
    """

    share: float
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            given = f"share = {self.share!r}"
            raise InputError(given, "a number in (0, 1]", "write 0.17 for 17 % of the pixels")

    def __call__(self, model: Model, x: Tensor) -> Tensor:
        key = keys.mix(self.seed, "scattered", image_keys(x))
        return keys.uniform(key, 0, (1, *x.shape[-2:])) < self.share


@dataclass(frozen=True)
class Boxes(Mask):
    """`count` squares of `edge` pixels at random places, which may overlap, other ones in each
    image.
    """

    edge: int
    count: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        _whole(self.edge, "edge")
        _whole(self.count, "count")

    def __call__(self, model: Model, x: Tensor) -> Tensor:
        height, width = _fits(self.edge, x)
        key = keys.mix(self.seed, "boxes", image_keys(x))
        top = keys.integers(key, 0, height - self.edge + 1, (self.count,))
        left = keys.integers(key, 1, width - self.edge + 1, (self.count,))
        squares = [_square(x, self.edge, top[:, i], left[:, i]) for i in range(self.count)]
        return torch.stack(squares).any(0)


@dataclass(frozen=True)
class Patches(Mask):
    """`count` cells of the grid of squares of `edge` pixels, other ones in each image: exactly
    count * edge^2 pixels. What the grid leaves over at the right and at the bottom stays closed.
    """

    edge: int
    count: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        _whole(self.edge, "edge")
        _whole(self.count, "count")

    def __call__(self, model: Model, x: Tensor) -> Tensor:
        height, width = _fits(self.edge, x)
        down, across = height // self.edge, width // self.edge
        if self.count > down * across:
            given = f"{self.count} patches of a grid of {down} x {across}"
            raise InputError(given, f"at most {down * across}", "choose fewer or smaller patches")
        key = keys.mix(self.seed, "patches", image_keys(x))
        rank = keys.uniform(key, 0, (down * across,)).argsort(1).argsort(1)
        cells = (rank < self.count).reshape(-1, 1, down, across)
        grown = cells.repeat_interleave(self.edge, 2).repeat_interleave(self.edge, 3)
        return F.pad(grown, (0, width % self.edge, 0, height % self.edge))


@dataclass(frozen=True)
class Salient(Mask):
    """The square of `edge` pixels with the largest sum of |gradient| of the log-probability of the
    class that the model predicts (saliency, Simonyan, Vedaldi and Zisserman 2014).

    Costs a forward and a backward per image whenever a set is made, which no attack's count holds.
    """

    edge: int

    def __post_init__(self) -> None:
        _whole(self.edge, "edge")

    def __call__(self, model: Model, x: Tensor) -> Tensor:
        _fits(self.edge, x)
        sums = F.avg_pool2d(_saliency(model, x), self.edge, 1)
        best = sums.flatten(1).argmax(1)
        return _square(x, self.edge, best // sums.shape[3], best % sums.shape[3])


def _saliency(model: Model, x: Tensor) -> Tensor:
    """(B, 1, H, W) the sum over channels of |d log p_predicted / d x|."""
    with untouched(model), torch.inference_mode(False), torch.enable_grad():
        live = x.detach().clone().requires_grad_()
        top = model(live).float().log_softmax(1).amax(1).sum()
        (grad,) = torch.autograd.grad(top, [live])
    return grad.abs().sum(1, keepdim=True)
