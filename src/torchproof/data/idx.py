"""IDX files, the format of MNIST and Fashion-MNIST (LeCun 1998): plain or .gz, in one folder."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from functools import partial
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from torchproof.core.errors import FileError
from torchproof.data.found import Array, Arrays, Found

_STEMS = {"train": "train", "test": "t10k"}
_KINDS = ("images-idx3-ubyte", "labels-idx1-ubyte")
_BYTES = 0x08  # the type code of unsigned bytes, the only one in use for images


def find(folder: Path) -> Found | None:
    """The pairs {train,t10k}-images-idx3-ubyte, -labels-idx1-ubyte of a folder, or None."""
    readers = {}
    for part, stem in _STEMS.items():
        paths = [_locate(folder, f"{stem}-{kind}") for kind in _KINDS]
        if all(paths):
            readers[part] = partial(_pair, *cast("list[Path]", paths))
    return Found(str(folder), readers, tuple("0123456789")) if readers else None


def read(path: Path) -> Array:
    """The array of bytes in one IDX file, of the shape in its header; raises FileError."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            return _parse(cast("BinaryIO", stream))
    except (OSError, EOFError, zlib.error, struct.error, ValueError) as error:
        expected = "a complete IDX file of unsigned bytes"
        raise FileError(f"{path} ({error})", expected, "fetch the file again") from error


def _parse(stream: BinaryIO) -> Array:
    zeros, code, rank = struct.unpack(">HBB", stream.read(4))
    if zeros != 0 or code != _BYTES or not 1 <= rank <= 4:
        raise ValueError(f"header {zeros:04x} {code:02x} {rank:02x}")
    shape = struct.unpack(f">{rank}I", stream.read(4 * rank))
    size = math.prod(shape)
    content = stream.read(size + 1)  # no more than promised: a .gz can expand without end
    if len(content) != size:
        more = "more" if len(content) > size else str(len(content))
        raise ValueError(f"{more} bytes where shape {shape} has {size}")
    return np.frombuffer(content, np.uint8).reshape(shape)


def _pair(images: Path, labels: Path) -> Arrays:
    return read(images), read(labels)


def _locate(folder: Path, name: str) -> Path | None:
    dotted = name.replace("-idx", ".idx")  # some mirrors write it so
    names = (name, f"{name}.gz", dotted, f"{dotted}.gz")
    return next((folder / n for n in names if (folder / n).is_file()), None)
