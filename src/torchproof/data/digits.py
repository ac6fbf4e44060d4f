"""The 1,797 handwritten digits of 8 x 8 pixels inside scikit-learn (Alpaydin and Kaynak 1998)."""

from __future__ import annotations

import importlib
from functools import cache

import numpy as np
import torch

from torchproof.data.found import Arrays, Found, split_rows

_TEST = 500
_LEVELS = 16  # a pixel counts the inked points of a 4 x 4 block


def find() -> Found:
    """The bundled set; its split, 1,297 train and 500 test images, is that of `split_rows`."""
    return Found(
        "scikit-learn's digits",
        {"train": lambda: _part(0), "test": lambda: _part(1)},
        tuple("0123456789"),
        _LEVELS,
    )


def _part(which: int) -> Arrays:
    images, labels = _read()
    rows = split_rows(torch.from_numpy(labels.astype(np.int64)), _TEST)[which].numpy()
    return images[rows].astype(np.uint8), labels[rows]


@cache
def _read() -> Arrays:
    bunch = importlib.import_module("sklearn.datasets").load_digits()
    return bunch.images, bunch.target
