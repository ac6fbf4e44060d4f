"""Pictures of one size, as pillow opens them, stacked to an array of bytes."""

from __future__ import annotations

from collections.abc import Iterable
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from torchproof.core.errors import FileError, InputError, MissingExtra
from torchproof.data.found import Array

if TYPE_CHECKING:
    from PIL.Image import Image

_GREY = ("1", "L")
_COLOUR = ("RGB", "RGBA", "RGBX", "P", "PA", "LA", "CMYK", "YCbCr")


def pillow() -> ModuleType:
    """The module PIL.Image; raises MissingExtra."""
    try:
        from PIL import Image
    except ImportError as error:
        remedy = "run `pip install pillow`"
        raise MissingExtra(f"no pillow ({error})", "pillow, to read pictures", remedy) from error
    return Image


def stack(pictures: Iterable[tuple[str, Image]]) -> Array:
    """(N, H, W, C) bytes of pictures given with their names; C is 1 if all are grey, else 3.

    Transparency is dropped, orientation tags are not applied. Raises InputError where sizes differ
    or a picture has more than 8 bits per channel, FileError where one cannot be decoded.
    """
    arrays: list[Array] = []
    first = ""
    for name, picture in pictures:
        arrays.append(_bytes(name, picture))
        first = first or name
        if arrays[-1].shape[:2] != arrays[0].shape[:2]:
            (h, w), (height, width) = arrays[-1].shape[:2], arrays[0].shape[:2]
            given = f"{name} of {w} x {h} pixels beside {first} of {width} x {height}"
            raise InputError(given, "pictures of one size", "resize or crop them first")
    if not arrays:
        raise InputError("no pictures", "at least one", "look at what the set holds")
    channels = max(a.shape[2] for a in arrays)
    return np.stack([np.broadcast_to(a, (*a.shape[:2], channels)) for a in arrays])


def _bytes(name: str, picture: Image) -> Array:
    """(H, W, 1) of a grey picture, (H, W, 3) of another."""
    if picture.mode not in _GREY + _COLOUR:
        remedy = "save it with 8 bits per channel"
        raise InputError(f"{name} of mode {picture.mode}", "grey or colour, 8 bits", remedy)
    try:
        if picture.mode in _GREY:
            return np.asarray(picture.convert("L"))[..., None]
        return np.asarray(picture.convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        given = f"{name}, which cannot be decoded ({error})"
        raise FileError(given, "a complete picture", "save or fetch it again") from error
