"""Adversarial images as they are found: rows of a preallocated binary file, or of memory."""

from __future__ import annotations

import io
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import torch
from torch import Tensor

from torchproof.core.errors import FileError
from torchproof.core.files import writing
from torchproof.core.journal import write_all

RESUME = "make room and evaluate again with resume=True: what is recorded is kept"


@dataclass(frozen=True)
class Images:
    """n images of `shape` (C, H, W) in `stream`, as bytes 0-255 or in the floating type `dtype`.

    `fresh` says that the file was made now: nothing in it was written by an earlier run.
    """

    stream: BinaryIO
    shape: tuple[int, ...]
    dtype: torch.dtype
    eight_bit: bool
    fresh: bool = True

    @classmethod
    def open(
        cls, path: Path | None, n: int, shape: tuple[int, ...], dtype: torch.dtype, eight_bit: bool
    ) -> Images:
        """The images at `path`, with space for n of them reserved; in memory where there is none.

        Raises FileError where the space is not there, or the file has another size.
        """
        size = n * _bytes_per_image(shape, dtype, eight_bit)
        if path is None:
            return cls(io.BytesIO(bytes(size)), shape, dtype, eight_bit)
        fresh = not path.exists()
        if not fresh and path.stat().st_size != size:
            given = f"{path} of {path.stat().st_size} bytes"
            raise FileError(given, f"{size} bytes for {n} images", "evaluate into another folder")
        if fresh:
            _reserve(path, size)
        stream = cast(BinaryIO, path.open("r+b", buffering=0))
        return cls(stream, shape, dtype, eight_bit, fresh)

    def _encode(self, images: Tensor) -> np.ndarray:
        stored = (
            images.mul(255).round().to(torch.uint8) if self.eight_bit else images.to(self.dtype)
        )
        return np.ascontiguousarray(stored.cpu().numpy())

    def write(self, rows: list[int], images: Tensor) -> list[int]:
        """Stores images (R, C, H, W), values in [0, 1], and returns a checksum of each."""
        sums = []
        for row, image in zip(rows, self._encode(images), strict=True):
            data = image.tobytes()
            self.stream.seek(row * len(data))
            write_all(self.stream, data)
            sums.append(zlib.crc32(data))
        return sums

    def _raw(self, row: int) -> bytes:
        size = _bytes_per_image(self.shape, self.dtype, self.eight_bit)
        self.stream.seek(row * size)
        return self.stream.read(size)

    def checksum(self, row: int) -> int:
        """The checksum of a row as it is stored now."""
        return zlib.crc32(self._raw(row))

    def read(self, rows: list[int]) -> Tensor:
        """The images (R, C, H, W) of these rows in `dtype`, values in [0, 1], on the CPU."""
        kind = torch.uint8 if self.eight_bit else self.dtype
        data = bytearray(b"".join(self._raw(row) for row in rows))
        if not data:
            return torch.empty(0, *self.shape, dtype=self.dtype)
        stored = torch.frombuffer(data, dtype=kind).reshape(-1, *self.shape)
        return stored.to(self.dtype) / 255 if self.eight_bit else stored

    def sync(self) -> None:
        """On the disk, as far as the system knows."""
        if not isinstance(self.stream, io.BytesIO):
            os.fsync(self.stream.fileno())

    def close(self) -> None:
        if not isinstance(self.stream, io.BytesIO):
            self.stream.close()


def _bytes_per_image(shape: tuple[int, ...], dtype: torch.dtype, eight_bit: bool) -> int:
    return int(np.prod(shape)) * (1 if eight_bit else dtype.itemsize)


def _reserve(path: Path, size: int) -> None:
    """A file of `size` zero bytes whose blocks are taken, so that a full disk shows at once."""
    part = path.with_suffix(".part")
    with writing(path, RESUME):
        try:
            with part.open("wb") as file:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, size)
                else:
                    file.truncate(size)
            os.replace(part, path)
        except OSError:
            part.unlink(missing_ok=True)
            raise
