"""A data set as it was found: parts that are read only when asked for, and how they are split.

Every reader ends in a `Found`; `choose` turns that and a split into a `Dataset`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from torchproof.core import keys
from torchproof.core.errors import FileError, InputError
from torchproof.data.dataset import Dataset

Array = npt.NDArray[Any]
Arrays = tuple[Array, Array]  # images (N, H, W), (N, H, W, C) or (N, C, H, W), and labels (N,)
SPLITS = ("train", "test", "all")
_TEST_SHARE = 0.2
_CHANNELS = (1, 3)


@dataclass(frozen=True)
class Found:
    """`parts` has a reader for "train", for "test", or for "all" where the set is not split.

    `where` is shown in errors. Images of bytes are divided by `levels`.
    """

    where: str
    parts: Mapping[str, Callable[[], Arrays]]
    classes: tuple[str, ...]
    levels: int = 255


def choose(found: Found, split: str, name: str) -> Dataset:
    """The images of one split; a set that is not split is split by `split_rows`, 80 to 20.

    Raises FileError where the part is missing, InputError where images or labels cannot be meant.
    """
    parts = found.parts
    if split in parts:
        x, y = _tensors(parts[split]())
    elif split == "all" and {"train", "test"} <= set(parts):
        halves = [_tensors(parts[part]()) for part in ("train", "test")]
        x, y = (torch.cat(both) for both in zip(*halves, strict=True))
    elif "all" in parts:
        x, y = _tensors(parts["all"]())
        train, test = split_rows(y, max(1, round(len(y) * _TEST_SHARE)))
        rows = test if split == "test" else train
        x, y = x[rows], y[rows]
    else:
        given = f"{found.where}, which has only the part {', '.join(sorted(parts))}"
        raise FileError(given, f"the part {split}", "complete the set or choose another split")
    levels = 0 if x.is_floating_point() else found.levels
    return Dataset.of(_scaled(x, found.levels), y, found.classes, name, split, levels)


def split_rows(y: Tensor, test: int) -> tuple[Tensor, Tensor]:
    """Row numbers (train, test) of a fixed stratified split with exactly `test` test rows.

    Both are in the order of the permutation of the rows keyed by "split", so the first n of either
    are a random sample. A class with m of N rows gets m * test / N test rows, rounded up or down:
    the rows are sorted by class, and taken at even distances (stratified systematic sampling).
    Raises InputError unless 0 < test < len(y).
    """
    count = len(y)
    if not 0 < test < count:
        given = f"{count} examples to be split, {test} of them for testing"
        raise InputError(given, "at least one example on either side", "use the split 'all'")
    shuffled = keys.permutation(count, "split")
    by_class = shuffled[y[shuffled].argsort(stable=True)]
    place = torch.arange(count)
    held_out = torch.zeros(count, dtype=torch.bool)
    held_out[by_class] = (place + 1) * test // count > place * test // count
    return shuffled[~held_out[shuffled]], shuffled[held_out[shuffled]]


def _tensors(arrays: Arrays) -> tuple[Tensor, Tensor]:
    x, y = arrays
    return _images(x), _labels(y)


def _images(x: Array) -> Tensor:
    """(N, C, H, W), uint8 or float32; the channels are last if that size is 1 or 3, else first."""
    if x.ndim == 3:
        x = x[:, None]
    elif x.ndim == 4 and x.shape[3] in _CHANNELS:
        x = x.transpose(0, 3, 1, 2)
    elif x.ndim != 4 or x.shape[1] not in _CHANNELS:
        expected = "images (N, H, W), (N, H, W, C) or (N, C, H, W) with 1 or 3 channels"
        remedy = "reshape them, and drop channels such as transparency"
        raise InputError(f"images of shape {x.shape}", expected, remedy)
    if x.dtype == np.uint8:
        return torch.from_numpy(np.array(x, order="C"))
    if not np.issubdtype(x.dtype, np.floating):
        remedy = "store them as uint8 or divide them by their largest possible value"
        raise InputError(f"images of {x.dtype}", "uint8, or floats in [0, 1]", remedy)
    return torch.from_numpy(np.array(x, np.float32, order="C"))


def _labels(y: Array) -> Tensor:
    """(N,) int64 from any integers, (N, 1) included."""
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1 or not np.issubdtype(y.dtype, np.integer):
        given = f"labels of {y.dtype}, shape {y.shape}"
        raise InputError(given, "one integer per image", "store class numbers, counted from 0")
    return torch.from_numpy(np.array(y, np.int64))


def _scaled(x: Tensor, levels: int) -> Tensor:
    return x if x.is_floating_point() else x.float().div_(levels)
