"""Training sets that hold outliers: normal images with a known share of others planted in them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from torchproof.core.errors import InputError
from torchproof.core.keys import permutation


@dataclass(frozen=True, eq=False)
class Contaminated:
    """Images for training, calibration and test, which share none.

    x (N, C, H, W) with the truth `outlier` (N,), bool, which no detector sees but the oracle; held
    (M, C, H, W): normal images for thresholds; test (T, C, H, W) with its truth `anomalous` (T,).
    """

    x: Tensor
    outlier: Tensor
    held: Tensor
    test: Tensor
    anomalous: Tensor

    @property
    def planted(self) -> int:
        """How many of the training images are outliers."""
        return int(self.outlier.sum())


@dataclass(frozen=True)
class Sizes:
    """Normal images for training and calibration; images of either kind for the test."""

    train: int
    held: int
    test: int

    def __post_init__(self) -> None:
        if min(self.train, self.held, self.test) < 2:
            remedy = "raise them"
            raise InputError(f"{self}", "at least 2 images in each part", remedy)


def contaminate(
    normal: Tensor, outliers: Tensor, share: float, sizes: Sizes, seed: int = 0
) -> Contaminated:
    """`sizes.train` normal images with so many outliers that they are `share` of all.

    The parts depend on the seed alone: a larger share adds outliers to those of a smaller one, and
    normal, held and test images stay the same. Raises InputError for a share outside [0, 0.5], too
    few images, and kinds of different shapes.
    """
    if not 0 <= share <= 0.5:
        remedy = "call the larger group normal"
        raise InputError(f"a contamination of {share:g}", "a share from 0 to 0.5", remedy)
    if normal.shape[1:] != outliers.shape[1:]:
        given = f"normal images {tuple(normal.shape[1:])}, outliers {tuple(outliers.shape[1:])}"
        raise InputError(given, "images of one shape", "resize one of them")
    planted = round(share * sizes.train / (1 - share))
    wanted = sizes.train + sizes.held + sizes.test
    if len(normal) < wanted or len(outliers) < planted + sizes.test:
        given = f"{len(normal)} normal images and {len(outliers)} outliers"
        expected = f"at least {wanted} and {planted + sizes.test}"
        raise InputError(given, expected, "ask for smaller parts")
    normal = normal[permutation(len(normal), seed, "normal")]
    outliers = outliers[permutation(len(outliers), seed, "outliers")]
    kept, held = sizes.train, sizes.train + sizes.held
    bad = outliers[sizes.test : sizes.test + planted]
    return Contaminated(
        x=torch.cat([normal[:kept], bad]),
        outlier=_second(sizes.train, planted),
        held=normal[kept:held],
        test=torch.cat([normal[held:wanted], outliers[: sizes.test]]),
        anomalous=_second(sizes.test, sizes.test),
    )


def _second(first: int, second: int) -> Tensor:
    return torch.arange(first + second) >= first


def shrunk(x: Tensor, size: int) -> Tensor:
    """Images (N, C, H, W) averaged over areas to (N, C, size, size); those of that size as they
    are. Raises InputError for a size above the image's.
    """
    if not 1 <= size <= min(x.shape[2:]):
        given = f"a size of {size} for images of {tuple(x.shape[2:])} pixels"
        raise InputError(given, "at most that of the images", "choose a smaller size")
    if x.shape[2:] == (size, size):
        return x
    return F.interpolate(x, (size, size), mode="area")
