"""CIFAR-10 and -100 as pickled batches (Krizhevsky 2009), read without running anything in them.

A pickle names functions and calls them. The unpickler here knows five names, those with which numpy
pickles an array, and answers each with an inert stand-in that only takes notes; numpy's own
functions never see the file, as they trust the data type and the flags written there. Any other
name is refused.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from torchproof.core.errors import FileError
from torchproof.data.found import Array, Arrays, Found

_TEN = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
_HUNDRED = {"train": ["train"], "test": ["test"]}
_TYPES = ("u1", "i4", "i8")
_PIXELS = (3, 32, 32)


def find(folder: Path) -> Found | None:
    """CIFAR-10 (data_batch_1 to 5, test_batch) or CIFAR-100 (train, test) in `folder`, or None."""
    for layout, classes in ((_TEN, 10), (_HUNDRED, 100)):
        if any((folder / file).is_file() for files in layout.values() for file in files):
            readers = {part: partial(_read, folder, files) for part, files in layout.items()}
            return Found(str(folder), readers, tuple(str(i) for i in range(classes)))
    return None


def read_batch(path: Path) -> Arrays:
    """Images (N, 3, 32, 32) uint8 and labels (N,) int64 of one batch; raises FileError."""
    try:
        with path.open("rb") as stream:
            batch = _Inert(stream, encoding="bytes").load()
        entries = {_text(k): v for k, v in batch.items()}
        labels = entries["fine_labels"] if "fine_labels" in entries else entries["labels"]
        x, y = _array(entries["data"]), _array(labels)
        if x.dtype != np.uint8 or y.shape != (len(x),):
            raise ValueError(f"images {x.dtype} {x.shape}, labels {y.dtype} {y.shape}")
        return x.reshape(-1, *_PIXELS), y.astype(np.int64)
    except Exception as error:  # a damaged or hostile pickle can raise anything
        expected = "a CIFAR batch: a dictionary with `data` and `labels` or `fine_labels`"
        given = f"{path} ({type(error).__name__}: {error})"
        raise FileError(given, expected, "take the files of the official archive") from error


def _read(folder: Path, files: list[str]) -> Arrays:
    missing = [file for file in files if not (folder / file).is_file()]
    if missing:
        given = f"{folder} without {', '.join(missing)}"
        raise FileError(given, f"the files {', '.join(files)}", "unpack the archive again")
    xs, ys = zip(*(read_batch(folder / file) for file in files), strict=True)
    return np.concatenate(xs), np.concatenate(ys)


class _Note:
    """Stands in for a numpy array or data type: keeps what the pickle says about it."""

    def __init__(self, *said: Any) -> None:
        self.said = said

    def __setstate__(self, state: Any) -> None:
        self.said += (state,)


class _Callable:
    """What a known name of numpy's stands for; immutable, so that a pickle cannot alter it."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make

    def __call__(self, *args: Any) -> Any:
        return self._make(*args)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("it sets the state of a function")


class _Inert(pickle.Unpickler):
    """Builds numbers, strings, lists, dictionaries and notes about arrays; calls nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        place = module.replace("numpy._core", "numpy.core")
        if (place, name) not in _KNOWN:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no CIFAR batch needs")
        return _Callable(_KNOWN[place, name])


def _encode(text: str, encoding: str) -> bytes:
    """Bytes as protocol 2 writes them; no codec but this one is ever looked up."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"it encodes text as {encoding}")
    return text.encode("latin1")


def _reconstruct(kind: object, shape: object, code: object) -> _Note:
    """An array whose (version, shape, type, Fortran order, bytes) follows as its state."""
    return _Note()


def _from_buffer(content: object, dtype: object, shape: object, order: object) -> _Note:
    """An array as protocol 5 writes it."""
    return _Note((1, shape, dtype, _text(order) == "F", content))


_KNOWN: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("numpy", "ndarray"): _Note,
    ("numpy", "dtype"): _Note,
    ("_codecs", "encode"): _encode,
}


def _array(thing: object) -> Array:
    """The array that a note describes, or that of a list of integers; raises ValueError."""
    if isinstance(thing, list) and all(type(i) is int for i in thing):
        return np.array(thing, np.int64)
    if not (isinstance(thing, _Note) and len(thing.said) == 1):
        raise ValueError(f"{type(thing).__name__} where an array was expected")
    _, shape, dtype, fortran, content = thing.said[0]
    if not (isinstance(dtype, _Note) and dtype.said and _text(dtype.said[0]) in _TYPES):
        raise ValueError("an array that is neither of bytes nor of integers")
    order = _text(dtype.said[-1][1]) if isinstance(dtype.said[-1], tuple) else "|"
    kind = np.dtype(_text(dtype.said[0])).newbyteorder(">" if order == ">" else "<")
    if (
        not isinstance(content, bytes | bytearray)
        or len(content) != math.prod(shape) * kind.itemsize
    ):
        raise ValueError("an array of another length than its shape says")
    return np.frombuffer(content, kind).reshape(shape, order="F" if fortran else "C")


def _text(thing: object) -> str:
    return thing.decode("latin1") if isinstance(thing, bytes) else str(thing)
