"""A set of the Hugging Face hub that is read as it comes over the network: `hub_stream(NAME)`."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torchproof.core.errors import FileError, InputError
from torchproof.data.hub import column_of, library
from torchproof.data.pictures import stack
from torchproof.data.shards import Centre, decoded


@dataclass(frozen=True)
class HubStream:
    """The rows of an iterable data set whose column `picture` holds the files, undecoded. A handle
    is the cell of that column with the label: the compressed picture, or where it is to be found.
    """

    rows: Any
    where: str
    picture: str
    label: str
    count: int
    classes: tuple[str, ...] = ()
    crop: Centre | None = None
    channels: int = 3

    @property
    def name(self) -> str:
        """Where it is from, how many examples, how they are cut."""
        return f"{self.where}, {self.count} examples, {self.crop}"

    @property
    def parts(self) -> int:
        """How many files there are to share among processes."""
        return int(getattr(self.rows, "num_shards", 1))

    def __len__(self) -> int:
        return self.count

    def walk(self, part: int) -> Iterator[tuple[str, Any, int]]:
        """Raises FileError where the network fails."""
        whole = self.parts == 1
        rows = self.rows if whole else self.rows.shard(num_shards=self.parts, index=part)
        number = 0
        try:
            for number, row in enumerate(rows):
                yield f"row {number} of part {part}", row[self.picture], row[self.label]
        except GeneratorExit:
            raise
        except Exception as error:  # network, hub and parsing errors of several packages
            reason = f"{type(error).__name__}: {error}"
            given = f"{self.where}, which ended at row {number} of part {part} ({reason})"
            raise FileError(given, "a readable data set", "look at the network, resume") from error

    def read(self, handles: Sequence[tuple[str, Any, int]]) -> tuple[Tensor, Tensor]:
        """Raises FileError and InputError as `Shards.read` does."""
        pictures = [
            (n, decoded(n, content(n, cell), self.crop, self.channels)) for n, cell, _ in handles
        ]
        images = torch.from_numpy(stack(pictures)).permute(0, 3, 1, 2).float().div_(255)
        return images, torch.tensor([label for *_, label in handles])


def hub_stream(
    name: str,
    split: str = "train",
    count: int | None = None,
    crop: Centre | None = None,
    channels: int = 3,
) -> HubStream:
    """The split of the set NAME or NAME:CONFIG, streamed: nothing is stored.

    count: examples of the split, by default what its card says. Raises MissingExtra without the
    package datasets (extra `hf`), FileError where the hub has no such set, InputError where it has
    not exactly one column of pictures and one of class labels, or where no count is known.
    """
    package, (path, _, config) = library(), name.partition(":")
    try:
        rows = package.load_dataset(path, config or None, split=split, streaming=True)
    except Exception as error:  # network, hub and parsing errors of several packages
        given = f"hf:{name}, which could not be opened ({type(error).__name__}: {error})"
        remedy = "look at the name on huggingface.co/datasets and at the network"
        raise FileError(given, "a public image data set", remedy) from error
    if rows.features is None:
        remedy = "choose a set whose card names its columns"
        raise InputError(f"hf:{name}, whose columns are unknown", "pictures and labels", remedy)
    picture = column_of(name, rows.features, package.Image, "pictures")
    label = column_of(name, rows.features, package.ClassLabel, "class labels")
    known = count if count is not None else _count(rows, split)
    if known is None:
        remedy = "pass count=, how many examples make an epoch"
        raise InputError(f"hf:{name} ({split}), which does not say its size", "a size", remedy)
    rows = rows.cast_column(picture, package.Image(decode=False))
    classes = tuple(rows.features[label].names)
    return HubStream(rows, f"hf:{name} ({split})", picture, label, known, classes, crop, channels)


def _count(rows: Any, split: str) -> int | None:
    splits = getattr(getattr(rows, "info", None), "splits", None) or {}
    return splits[split].num_examples if split in splits else None


def content(name: str, cell: Any) -> bytes:
    """The file in a cell of an undecoded column of pictures: its bytes, or what is at its path,
    which may be an address. Raises FileError.
    """
    stored: bytes | None = cell["bytes"]
    if stored is not None:
        return stored
    path = str(cell["path"])
    try:
        if "://" not in path:
            return Path(path).read_bytes()
        with importlib.import_module("fsspec").open(path, "rb") as file:  # what datasets reads with
            return bytes(file.read())
    except Exception as error:  # network errors of several packages
        given = f"{name} at {path} ({type(error).__name__}: {error})"
        raise FileError(given, "a picture", "look at the network, then resume") from error
