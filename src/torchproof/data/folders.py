"""Folders of pictures, one sub-folder per class: `folder:PATH`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from torchproof.core.errors import FileError
from torchproof.data.found import Arrays, Found
from torchproof.data.pictures import pillow, stack

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
)
_EXPECTED = "one sub-folder of pictures per class, or train/ and test/ with such sub-folders"


def find(folder: Path) -> Found:
    """PATH/CLASS/*.png, or PATH/train/CLASS/*.png and PATH/test/CLASS/*.png, of any picture type.

    Classes are the names of the sub-folders in alphabetical order, pictures are in that order of
    their names. Raises FileError: no folder, no class, a class without pictures, other classes in
    the test than in the train part.
    """
    if not folder.is_dir():
        raise FileError(f"{folder}, which is no folder", _EXPECTED, "look at the path")
    roots = {part: folder / part for part in ("train", "test") if (folder / part).is_dir()}
    if set(roots) != {"train", "test"}:
        roots = {"all": folder}
    classes = {part: _subfolders(root) for part, root in roots.items()}
    names, *others = classes.values()
    if any(other != names for other in others):
        differing = set(names).symmetric_difference(*others)
        given = f"{folder} with the classes {', '.join(sorted(differing))} in one part only"
        raise FileError(given, "the same classes in train/ and test/", "move or add the pictures")
    readers = {part: partial(_read, root, names) for part, root in roots.items()}
    return Found(str(folder), readers, names)


def _subfolders(root: Path) -> tuple[str, ...]:
    names = tuple(sorted(p.name for p in root.iterdir() if p.is_dir() and p.name[0] != "."))
    if not names:
        raise FileError(f"{root} without sub-folders", _EXPECTED, "sort the pictures into them")
    return names


def _read(root: Path, classes: tuple[str, ...]) -> Arrays:
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        inside = [p for p in sorted((root / name).iterdir()) if p.suffix.lower() in SUFFIXES]
        if not inside:
            given = f"{root / name} without pictures"
            raise FileError(given, _EXPECTED, f"use one of {', '.join(sorted(SUFFIXES))}")
        files += inside
        labels += [label] * len(inside)
    return stack(_opened(files)), np.array(labels, np.int64)


def _opened(files: list[Path]) -> Iterator[tuple[str, Image]]:
    """Each picture while it is open; pillow reads the pixels only when they are asked for."""
    library = pillow()
    for path in files:
        try:
            picture = library.open(path)
        except (OSError, ValueError, library.DecompressionBombError) as error:
            given = f"{path}, which is no picture ({error})"
            raise FileError(given, "a picture that pillow reads", "remove or replace it") from error
        with picture:
            yield str(path), picture
