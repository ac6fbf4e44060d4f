"""Folders of pictures and the Hugging Face hub: what pillow opens becomes one array of bytes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from torchproof.core.errors import FileError, InputError, MissingExtra
from torchproof.data import Dataset, load

DRAW = np.random.default_rng(0)
COLOUR = DRAW.integers(0, 256, (6, 4, 5, 3), dtype=np.uint8)
GREY = COLOUR[..., 0]


def put(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def whole(folder: Path) -> Dataset:
    return load(f"folder:{folder}", split="all")


def as_images(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.moveaxis(x, 3, 1) / np.float32(255))


def test_classes_are_the_sub_folders_in_alphabetical_order(tmp_path: Path) -> None:
    put(tmp_path / "owl" / "1.png", COLOUR[2])
    put(tmp_path / "cat" / "b.bmp", COLOUR[1])
    put(tmp_path / "cat" / "a.PNG", COLOUR[0])
    put(tmp_path / ".hidden" / "a.png", COLOUR[5])
    (tmp_path / "cat" / "notes.txt").write_text("not a picture")
    data = whole(tmp_path)
    assert data.classes == ("cat", "owl") and data.y.tolist() == [0, 0, 1]
    assert torch.equal(data.x, as_images(COLOUR[:3])) and data.levels == 255


def test_train_and_test_folders_are_a_split(tmp_path: Path) -> None:
    for number, part in enumerate(["train", "train", "test"]):
        for label, name in enumerate(["cat", "dog"]):
            put(tmp_path / part / name / f"{number}.png", COLOUR[2 * number + label])
    train, test = (load(f"folder:{tmp_path}", split=s) for s in ("train", "test"))
    assert torch.equal(train.x, as_images(COLOUR[[0, 2, 1, 3]]))
    assert train.y.tolist() == [0, 0, 1, 1]
    assert torch.equal(test.x, as_images(COLOUR[4:])) and test.y.tolist() == [0, 1]
    put(tmp_path / "test" / "owl" / "1.png", COLOUR[0])
    with pytest.raises(FileError, match="owl"):
        load(f"folder:{tmp_path}")


def test_grey_pictures_keep_one_channel_and_mixed_ones_get_three(tmp_path: Path) -> None:
    put(tmp_path / "a" / "1.png", GREY[0])
    put(tmp_path / "b" / "1.png", GREY[1])
    assert torch.equal(whole(tmp_path).x, as_images(GREY[:2, ..., None]))
    put(tmp_path / "b" / "1.png", COLOUR[1])
    mixed = np.stack([np.repeat(GREY[0][..., None], 3, 2), COLOUR[1]])
    assert torch.equal(whole(tmp_path).x, as_images(mixed))


def test_transparency_is_dropped_and_palettes_are_resolved(tmp_path: Path) -> None:
    alpha = np.concatenate([COLOUR[0], COLOUR[1, ..., :1]], 2)
    put(tmp_path / "a" / "1.png", alpha)
    flat = np.where(GREY[1][..., None] > 127, [255, 0, 0], [0, 0, 255]).astype(np.uint8)
    (tmp_path / "b").mkdir()
    Image.fromarray(flat).convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "b/1.png")
    assert torch.equal(whole(tmp_path).x, as_images(np.stack([COLOUR[0], flat])))


def test_pictures_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    put(tmp_path / "a" / "1.png", COLOUR[0])
    put(tmp_path / "a" / "2.png", COLOUR[1][:3])
    with pytest.raises(InputError, match=r"2\.png of 5 x 3 pixels beside .*1\.png of 5 x 4"):
        whole(tmp_path)
    put(tmp_path / "a" / "2.png", GREY[0].astype(np.uint16) * 256)
    with pytest.raises(InputError, match="8 bits per channel"):
        whole(tmp_path)


def test_damaged_pictures_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a" / "1.png"
    noise = DRAW.integers(0, 256, (40, 40, 3), dtype=np.uint8)
    put(path, noise)
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"text"):
        path.write_bytes(damaged)
        with pytest.raises(FileError, match=r"1\.png"):
            whole(tmp_path)


def test_folders_without_classes_or_pictures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="not found"):
        whole(tmp_path / "missing")
    with pytest.raises(FileError, match="without sub-folders"):
        whole(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(FileError, match="no folder"):
        whole(tmp_path / "file")
    (tmp_path / "cat").mkdir()
    with pytest.raises(FileError, match="cat without pictures"):
        whole(tmp_path)


class Pictures:
    """The kind of a column of pictures."""


class Labels:
    """The kind of a column of class labels."""

    names = ("cat", "dog")


class Rows:
    """Rows of a hub data set: iterable by row, indexable by column."""

    def __init__(self, pixels: np.ndarray, labels: list[int], **features: Any) -> None:
        self.features = {"image": Pictures(), "label": Labels(), "id": object()} | features
        self.pixels, self.labels = pixels, labels

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for pixels in self.pixels:
            yield {"image": Image.fromarray(pixels)}

    def __getitem__(self, column: str) -> list[int]:
        assert column == "label"
        return self.labels


Hub = dict[tuple[str, str | None], dict[str, Rows]]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    """A stand-in for the package datasets; sets are put into the dictionary returned."""
    sets: Hub = {}

    def load_dataset(path: str, config: str | None) -> dict[str, Rows]:
        return sets[path, config]

    module = SimpleNamespace(
        __version__="5.2.0", load_dataset=load_dataset, Image=Pictures, ClassLabel=Labels
    )
    monkeypatch.setitem(sys.modules, "datasets", module)
    return sets


def test_hub_sets_with_their_splits(hub: Hub) -> None:
    train, test = Rows(COLOUR[:4], [0, 1, 1, 0]), Rows(COLOUR[4:], [1, 0])
    hub["pets", None] = {"train": train, "test": test}
    hub["pets", "val"] = {"train": train, "validation": test}
    for name in ("hf:pets", "hf:pets:val"):
        data = load(name)
        assert torch.equal(data.x, as_images(COLOUR[4:])) and data.y.tolist() == [1, 0]
        assert data.classes == ("cat", "dog") and data.name == name
        assert len(load(name, split="train")) == 4
    hub["pets", None] = {"train": train}
    assert len(load("hf:pets", split="train")) == 3 and len(load("hf:pets")) == 1


def test_hub_sets_that_cannot_be_meant_are_refused(hub: Hub) -> None:
    hub["two", None] = {"train": Rows(COLOUR, [0] * 6, mask=Pictures())}
    with pytest.raises(InputError, match="2 columns of pictures"):
        load("hf:two")
    hub["none", None] = {"train": Rows(COLOUR, [0] * 6, label=object())}
    with pytest.raises(InputError, match="0 columns of class labels"):
        load("hf:none")
    hub["odd", None] = {"a": Rows(COLOUR, [0] * 6), "b": Rows(COLOUR, [0] * 6)}
    with pytest.raises(InputError, match="the parts a, b"):
        load("hf:odd")
    with pytest.raises(FileError, match="hf:absent"):
        load("hf:absent")


def test_the_hub_needs_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtra, match=r"torchproof\[hf\]"):
        load("hf:mnist")
    old = SimpleNamespace(__version__="2.14.0")
    monkeypatch.setitem(sys.modules, "datasets", old)
    with pytest.raises(MissingExtra, match="may run code"):
        load("hf:mnist")


def test_pictures_need_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "a" / "1.png", COLOUR[0])
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtra, match="pip install pillow"):
        whole(tmp_path)
