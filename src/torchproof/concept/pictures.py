"""Concept images from a folder of pictures, brought to the size that a network takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from torchproof.core.errors import FileError, InputError
from torchproof.data.folders import SUFFIXES
from torchproof.data.pictures import pillow

MODES = {1: "L", 3: "RGB"}


def read_pictures(folder: Path, channels: int, height: int, width: int) -> Tensor:
    """(N, channels, height, width) float32 in [0, 1]: the pictures right in this folder in the
    order of their names, each scaled to cover that size (bilinear) and cut to its middle.

    Raises FileError: no folder, no pictures, one that cannot be read; InputError for other than 1
    or 3 channels.
    """
    if channels not in MODES:
        given = f"pictures for a network of {channels} channels"
        raise InputError(given, "1 or 3 channels", "give activations instead")
    expected = "a folder of pictures"
    if not folder.is_dir():
        raise FileError(f"{folder}, which is no folder", expected, "look at the path")
    files = [p for p in sorted(folder.iterdir()) if p.suffix.lower() in SUFFIXES]
    if not files:
        remedy = f"put pictures into it: {', '.join(sorted(SUFFIXES))}"
        raise FileError(f"{folder} without pictures", expected, remedy)
    return torch.stack([_read(path, MODES[channels], height, width) for path in files])


def _read(path: Path, mode: str, height: int, width: int) -> Tensor:
    library = pillow()
    try:
        with library.open(path) as opened:
            picture = opened.convert(mode)
    except (OSError, ValueError, SyntaxError, library.DecompressionBombError) as error:
        given = f"{path}, which is no picture ({error})"
        raise FileError(given, "a picture that pillow reads", "remove or replace it") from error
    scale = max(width / picture.width, height / picture.height)
    size = (max(width, round(scale * picture.width)), max(height, round(scale * picture.height)))
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    picture = picture.resize(size, library.Resampling.BILINEAR)
    cut = np.asarray(picture.crop((left, top, left + width, top + height)), np.float32) / 255
    return torch.from_numpy(cut.reshape(height, width, -1).transpose(2, 0, 1).copy())
