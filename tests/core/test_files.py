"""Files are there whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import BinaryIO

import pytest

from torchproof.core.errors import FileError
from torchproof.core.files import placing, replacing, write, writing


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "down" / "result.json"
    write(path, b"one")
    write(path, b"two")
    assert path.read_bytes() == b"two"
    assert os.listdir(path.parent) == ["result.json"]


def test_a_writer_that_fails_leaves_the_file_of_before(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    write(path, b"old")

    def half(file: BinaryIO) -> None:
        file.write(b"ne")
        raise OSError(errno.ENOSPC, "No space left on device")

    with (
        pytest.raises(FileError, match=r"weights\.safetensors.*No space left.*buy a disk"),
        replacing(path, "buy a disk") as file,
    ):
        half(file)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["weights.safetensors"]


def test_an_interrupted_writer_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "adversarial.npz"
    with pytest.raises(KeyboardInterrupt), placing(path) as part:
        part.write_bytes(b"half")
        assert part.suffix == path.suffix and part.parent == path.parent
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []


def test_readers_never_meet_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write(path, b"before")
    with replacing(path) as file:
        file.write(b"aft")
        file.flush()
        assert path.read_bytes() == b"before"
        file.write(b"er")
    assert path.read_bytes() == b"after"


def test_a_folder_in_the_way_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "a.json").mkdir()
    with pytest.raises(FileError, match=r"a\.json could not be written"):
        write(tmp_path / "a.json", b"")
    inner = FileError("this one", "another", "told already")
    with pytest.raises(FileError, match="told already"), writing(tmp_path / "a.json"):
        raise inner
    assert os.listdir(tmp_path) == ["a.json"]
