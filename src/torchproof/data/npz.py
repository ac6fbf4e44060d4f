"""Archives of numpy arrays: x_train, y_train, x_test, y_test (or one of the pairs), or x, y."""

from __future__ import annotations

import zipfile
import zlib
from functools import partial
from pathlib import Path

import numpy as np

from torchproof.core.errors import FileError
from torchproof.data.found import Array, Arrays, Found

_PAIRS = {"train": ("x_train", "y_train"), "test": ("x_test", "y_test"), "all": ("x", "y")}
_NAMES = ("classes", "class_names", "names")
_EXPECTED = "an .npz file with arrays x_train, y_train, x_test, y_test, or x, y"
# What numpy, zipfile and zlib raise on files that are truncated, damaged, foreign or hold pickles.
_DAMAGE = (zipfile.BadZipFile, zlib.error, ValueError, OSError, EOFError, KeyError)


def find(path: Path) -> Found | None:
    """The set at `path` if that is an .npz file, else None. Nothing in it is ever unpickled.

    Classes are named by an array of strings `classes`, `class_names` or `names`, else by their
    number. Raises FileError where the file cannot be read or holds no such arrays.
    """
    if path.suffix != ".npz" or not path.is_file():
        return None
    held = _names(path)
    parts = {part: pair for part, pair in _PAIRS.items() if set(pair) <= held}
    if not parts:
        given = f"{path} with the arrays {', '.join(sorted(held)) or '(none)'}"
        raise FileError(given, _EXPECTED, "rename or add the arrays")
    if "train" in parts or "test" in parts:
        parts.pop("all", None)
    readers = {part: partial(_arrays, path, *pair) for part, pair in parts.items()}
    return Found(str(path), readers, _classes(path, held, [y for _, y in parts.values()]))


def _names(path: Path) -> set[str]:
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            return set(archive.files)
    except (*_DAMAGE, TypeError) as error:  # a bare .npy array cannot be entered
        raise _unreadable(path, error) from error


def _array(path: Path, name: str) -> Array:
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            array: Array = archive[name]
            return array
    except _DAMAGE as error:
        raise _unreadable(path, error) from error


def _arrays(path: Path, x: str, y: str) -> Arrays:
    return _array(path, x), _array(path, y)


def _classes(path: Path, held: set[str], labels: list[str]) -> tuple[str, ...]:
    """The names stored in the file, if there are enough, else "0", "1", ..."""
    ys = [_array(path, name) for name in labels]
    count = max((int(y.max()) + 1 for y in ys if y.size and y.dtype.kind in "iu"), default=0)
    for name in _NAMES:
        stored = _array(path, name) if name in held else np.empty(0)
        if stored.dtype.kind == "U" and stored.ndim == 1 and len(stored) >= count:
            return tuple(str(s) for s in stored)
    return tuple(str(i) for i in range(count))


def _unreadable(path: Path, error: Exception) -> FileError:
    remedy = "write it again with numpy.savez, with plain numbers and no Python objects"
    return FileError(f"{path}, which numpy cannot read ({error})", _EXPECTED, remedy)
