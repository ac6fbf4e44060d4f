"""Files that are there whole or not at all, whatever happens while they are written."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from torchproof.core.errors import FileError

REMEDY = "free some space, or write to another folder; a file of before is as it was"


@contextmanager
def writing(path: Path, remedy: str = REMEDY) -> Iterator[None]:
    """A full disk (or any other OSError) inside becomes a FileError about `path`."""
    try:
        yield
    except FileError:
        raise
    except OSError as error:
        given = f"{path} could not be written ({error.strerror or error})"
        raise FileError(given, "a writable folder with free space", remedy) from error


@contextmanager
def placing(path: Path, remedy: str = REMEDY) -> Iterator[Path]:
    """The name of a file beside `path`, for the block to write; afterwards it takes the place of
    `path` in one step, content and name on the disk. Where the block fails it is gone.

    The name ends like `path`, for writers that go by it. Missing folders are made. Raises FileError
    where the file cannot be written.
    """
    part = path.with_name(f".{secrets.token_hex(4)}.part.{path.name}")
    with writing(path, remedy):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield part
            with part.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
        _settle(path.parent)


@contextmanager
def replacing(path: Path, remedy: str = REMEDY) -> Iterator[BinaryIO]:
    """A file to write to that takes the place of `path` when the block ends, or not at all."""
    with placing(path, remedy) as part, part.open("wb") as file:
        yield file


def write(path: Path, content: bytes, remedy: str = REMEDY) -> None:
    """Replaces the file `path` by `content`, whole or not at all; raises FileError."""
    with replacing(path, remedy) as file:
        file.write(content)


def _settle(folder: Path) -> None:
    """Asks for the folder's entries on the disk too: a new name must survive a power cut as
    well.
    """
    with contextlib.suppress(OSError):  # not every file system lets a folder be synced
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
