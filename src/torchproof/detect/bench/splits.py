"""Images to fit, to calibrate and to test on, none of them shared, and images of elsewhere."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof import data as sets
from torchproof.core.errors import InputError
from torchproof.core.keys import permutation
from torchproof.data.dataset import Dataset
from torchproof.detect.parts.logits import wrong

# What is out of distribution for a data set, where it is found, and what it is called.
ELSEWHERE: dict[str, tuple[str, ...]] = {
    "mnist": ("fashion-mnist", "svhn", "npz:textures.npz"),
    "fashion-mnist": ("mnist", "svhn", "npz:textures.npz"),
    "cifar10": ("svhn", "npz:textures.npz"),
    "svhn": ("cifar10", "npz:textures.npz"),
}


@dataclass(frozen=True)
class Sizes:
    """Images at most; of the test ones `adaptive` are attacked adaptively."""

    fit: int = 2000
    calibrate: int = 1000
    test: int = 500
    adaptive: int = 100

    def __post_init__(self) -> None:
        least = min(self.fit, self.calibrate, self.test, self.adaptive)
        if least < 1 or self.adaptive > self.test:
            given = f"{self.fit}, {self.calibrate}, {self.test}, {self.adaptive} images"
            expected = "one or more of each, and no more adaptive than test images"
            raise InputError(f"{given} to fit, calibrate, test, attack", expected, "see defaults")


@dataclass(frozen=True)
class Images:
    """x (N, C, H, W) in [0, 1], y (N,), and their row numbers in the split they come from."""

    x: Tensor
    y: Tensor
    rows: Tensor

    def __len__(self) -> int:
        return len(self.y)

    def take(self, n: int) -> Images:
        """The first n."""
        return Images(self.x[:n], self.y[:n], self.rows[:n])


@dataclass(frozen=True)
class Splits:
    """fit: of the training part, whatever the classifier says; calibrate, test: of the test part,
    which the classifier gets right, drawn alike, so that what the threshold promises holds for the
    test images. accuracy: on the `looked` images that they were chosen from.
    """

    fit: Images
    calibrate: Images
    test: Images
    accuracy: float
    looked: int


def split(
    model: nn.Module, train: Dataset, test: Dataset, sizes: Sizes, seed: int, batch_size: int = 128
) -> Splits:
    """Disjoint images drawn by the seed. Where there are too few test images, calibration and test
    share what there is in the proportion of `sizes`.

    Raises InputError for a classifier that gets fewer than ten of them right, and for parts that
    have an image in common.
    """
    _check_apart(train, test)
    order = permutation(len(test), seed, "calibrate and test")
    right = _right(model, test, order, sizes.calibrate + sizes.test, batch_size)
    kept = order[: len(right)][right]
    if len(kept) < 10:
        given = f"a classifier that gets {len(kept)} of {len(right)} images right"
        raise InputError(given, "at least 10", "name the data set that it was trained on")
    kept = kept[: sizes.calibrate + sizes.test]
    first = round(len(kept) * sizes.calibrate / (sizes.calibrate + sizes.test))
    fit = permutation(len(train), seed, "fit")[: sizes.fit]
    _check_disjoint(train.x[fit], test.x[kept])
    return Splits(
        _images(train, fit), _images(test, kept[:first]), _images(test, kept[first:]),
        float(right.double().mean()), len(right),
    )  # fmt: skip


def _images(data: Dataset, rows: Tensor) -> Images:
    return Images(data.x[rows], data.y[rows], rows)


def _check_apart(train: Dataset, test: Dataset) -> None:
    if train.split == test.split and train.name == test.name:
        given = f"the same part of {test.name} ({test.split}) to fit and to test on"
        raise InputError(given, "different parts", "fit on the split train, test on test")


def _check_disjoint(fit: Tensor, others: Tensor) -> None:
    """By content, since the same images may go by two names."""
    known = {_digest(image) for image in fit}
    shared = sum(_digest(image) in known for image in others)
    if shared:
        given = f"{shared} images to calibrate or test with that are among those to fit on"
        remedy = "take them out of one of the parts, or choose another data set"
        raise InputError(given, "parts that have no image in common", remedy)


def _digest(image: Tensor) -> bytes:
    return hashlib.sha256(image.contiguous().cpu().numpy().tobytes()).digest()


def _right(model: nn.Module, data: Dataset, order: Tensor, wanted: int, batch: int) -> Tensor:
    """Which of the first images in this order the classifier gets right, (M,) bool: as many as it
    takes to have so many that are, or all.
    """
    found: list[Tensor] = []
    for rows in torch.split(order, batch):
        found.append(~wrong(model, data.x[rows], data.y[rows], batch))
        if sum(int(part.sum()) for part in found) >= wanted:
            break
    return torch.cat(found)


def elsewhere(
    names: Sequence[str], like: Tensor, n: int, seed: int, data_dir: Path | None = None
) -> dict[str, Tensor]:
    """n images at most of each data set, of the shape of `like` (C, H, W): grey where that is grey,
    resized. Raises what `load` raises.
    """
    found = {}
    for name in names:
        data = sets.load(name, data_dir=data_dir, split="all")
        rows = permutation(len(data), seed, "elsewhere", name)[:n]
        found[called(name)] = shaped(data.x[rows], like)
    return found


def called(name: str) -> str:
    """A data set's name without the scheme and the ending of a file."""
    return Path(name.partition(":")[2] or name).stem


def shaped(x: Tensor, like: Tensor) -> Tensor:
    """Images x (N, C, H, W) as of the shape of `like`: the mean of the channels for grey, grey
    repeated for colours, bilinear with anti-aliasing.
    """
    channels, height, width = like.shape
    if x.shape[1] != channels:
        x = x.mean(1, keepdim=True).expand(-1, channels, -1, -1)
    if tuple(x.shape[2:]) != (height, width):
        x = F.interpolate(
            x, (height, width), mode="bilinear", antialias=True, align_corners=False
        ).clamp(0, 1)
    return x.contiguous()
