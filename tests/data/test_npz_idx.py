"""Archives of arrays and IDX files: read as they were written, refused when damaged."""

from __future__ import annotations

import gzip
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from torchproof.core.errors import FileError
from torchproof.data import load
from torchproof.data.idx import read

DRAW = np.random.default_rng(0)
X = DRAW.integers(0, 256, (10, 4, 5, 3), dtype=np.uint8)
Y = np.arange(10) % 3


def as_images(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.moveaxis(x, 3, 1) / np.float32(255))


def save(path: Path, **arrays: Any) -> str:
    np.savez(path, **arrays)
    return f"npz:{path}"


def test_an_archive_with_a_split(tmp_path: Path) -> None:
    name = save(tmp_path / "a.npz", x_train=X[:7], y_train=Y[:7], x_test=X[7:], y_test=Y[7:])
    train, test = load(name, split="train"), load(name)
    assert torch.equal(train.x, as_images(X[:7])) and train.y.tolist() == Y[:7].tolist()
    assert torch.equal(test.x, as_images(X[7:])) and test.y.tolist() == Y[7:].tolist()
    assert (test.name, test.split, test.classes) == (name, "test", ("0", "1", "2"))
    assert torch.equal(load(name, split="all").x, as_images(X))


def test_classes_are_counted_over_all_parts(tmp_path: Path) -> None:
    name = save(tmp_path / "a.npz", x_train=X, y_train=Y, x_test=X[:1], y_test=Y[:1])
    assert len(load(name, split="test").classes) == 3


@pytest.mark.parametrize("key", ["classes", "class_names", "names"])
def test_class_names_in_the_archive_are_used(tmp_path: Path, key: str) -> None:
    names = np.array(["ant", "bee", "cow"])
    assert load(save(tmp_path / "a.npz", x=X, y=Y, **{key: names})).classes == tuple(names)
    too_few = save(tmp_path / "b.npz", x=X, y=Y, **{key: names[:2]})
    assert load(too_few).classes == ("0", "1", "2")


def test_relative_paths_are_looked_for_in_the_data_folder_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "a.npz", x=X, y=Y)
    assert len(load("npz:a.npz", data_dir=tmp_path, split="all")) == 10
    monkeypatch.setenv("TORCHPROOF_DATA", str(tmp_path))
    assert len(load("npz:a.npz", split="all")) == 10
    with pytest.raises(FileError, match=r"b\.npz nor as .*b\.npz"):
        load("npz:b.npz")


class Runs:
    """A pickle that makes a folder when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return Path.mkdir, (self.marker,)


def test_a_pickle_in_an_archive_is_never_loaded(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    hostile = np.empty(10, object)
    hostile[:] = [Runs(marker)] * 10
    for name in ("x", "y"):
        save(tmp_path / "a.npz", **({"x": X, "y": Y} | {name: hostile}))
        with pytest.raises(FileError, match="no Python objects"):
            load(f"npz:{tmp_path / 'a.npz'}")
    (tmp_path / "b.npz").write_bytes(pickle.dumps(Runs(marker)))
    with pytest.raises(FileError):
        load(f"npz:{tmp_path / 'b.npz'}")
    assert not marker.exists()
    pickle.loads((tmp_path / "b.npz").read_bytes())
    assert marker.exists()  # it would have run


def test_damaged_and_foreign_archives_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    save(path, x=X, y=Y)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[300] ^= 255
    for content in (b"", b"text", whole[: len(whole) // 2], bytes(flipped)):
        path.write_bytes(content)
        with pytest.raises(FileError, match=r"a\.npz"):
            load(f"npz:{path}")
    with path.open("wb") as stream:
        np.save(stream, X)
    with pytest.raises(FileError, match=r"a\.npz"):
        load(f"npz:{path}")


def test_an_archive_without_the_arrays_says_what_it_has(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"images, x.*x_train, y_train"):
        load(save(tmp_path / "a.npz", images=X, x=X))
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(FileError, match=r"ends in \.npz"):
        load(f"npz:{tmp_path / 'a.txt'}")


def write_idx(path: Path, array: np.ndarray) -> None:
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    content = header + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


GREY = X[..., 0]


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("dash", ["-", "."])
@pytest.mark.parametrize("folder", ["mnist", "MNIST/raw", "Mnist"])
def test_idx_files_under_the_usual_names(
    tmp_path: Path, folder: str, dash: str, suffix: str
) -> None:
    place = tmp_path / folder
    place.mkdir(parents=True)
    for stem, rows in (("train", slice(0, 7)), ("t10k", slice(7, 10))):
        write_idx(place / f"{stem}-images{dash}idx3-ubyte{suffix}", GREY[rows])
        write_idx(place / f"{stem}-labels{dash}idx1-ubyte{suffix}", Y[rows])
    train, test = (load("mnist", data_dir=tmp_path, split=s) for s in ("train", "test"))
    assert torch.equal(train.x, as_images(GREY[:7, ..., None]))
    assert test.y.tolist() == Y[7:].tolist() and test.classes == tuple("0123456789")


def test_damaged_idx_files_are_refused(tmp_path: Path) -> None:
    good, packed = tmp_path / "good", tmp_path / "good.gz"
    write_idx(good, GREY)
    write_idx(packed, GREY)
    assert np.array_equal(read(good), GREY) and np.array_equal(read(packed), GREY)
    content = good.read_bytes()
    bad = [b"", content[:3], content[:10], content[:-1], content + b"\0", b"\1" + content[1:]]
    bad += [content[:2] + b"\x0d" + content[3:], content[:3] + b"\0" + content[4:]]
    for number, damaged in enumerate(bad):
        path = tmp_path / f"bad{number}"
        path.write_bytes(damaged)
        with pytest.raises(FileError, match=path.name):
            read(path)
    for damaged in (packed.read_bytes()[:-9], b"no gzip"):
        packed.write_bytes(damaged)
        with pytest.raises(FileError, match=r"good\.gz"):
            read(packed)


def test_a_packed_file_is_not_expanded_beyond_its_header(tmp_path: Path) -> None:
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(struct.pack(">HBBI", 0, 8, 1, 10) + bytes(1 << 20)))
    with pytest.raises(FileError, match="more bytes"):
        read(path)
