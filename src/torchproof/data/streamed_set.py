"""Data sets that are read while they are used, by name: what `--data` may say of a stream.

`shards:train-{000..146}.tar` and `stream:OWNER/NAME` are short for `stream(shards("..."))` and
`stream(hub("..."))`, which take more: see `SOURCES`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

from torch import Tensor

from torchproof.core.errors import InputError
from torchproof.core.expression import parse
from torchproof.data.dataset import Dataset
from torchproof.data.hub_stream import hub_stream
from torchproof.data.shards import Centre, Shards, expanded, shards
from torchproof.data.sources import data_folder, load, names_stream
from torchproof.data.stream import Pair, Source, Stream


@dataclass(frozen=True)
class First:
    """The first `count` examples of a source, in its own order, as one part."""

    source: Source
    count: int
    parts: int = 1

    @property
    def name(self) -> str:
        """The source, and how many examples of it."""
        return f"{self.source.name}, the first {self.count}"

    def __len__(self) -> int:
        return self.count

    def walk(self, part: int) -> Iterator[Any]:
        """As the source's."""
        whole = chain.from_iterable(map(self.source.walk, range(self.source.parts)))
        return islice(whole, self.count)

    def read(self, handles: Sequence[Any]) -> Pair:
        """As the source's."""
        return self.source.read(handles)


@dataclass(frozen=True)
class StreamSet(Stream):
    """A stream with what a network is shaped and a run is told by: names of the classes."""

    classes: tuple[str, ...] = ()

    @property
    def sha256(self) -> str:
        """Of its name, which tells shards by names and sizes: reading all would take an epoch."""
        return hashlib.sha256(self.name.encode()).hexdigest()

    def head(self) -> Tensor:
        """The first two images at most, (B, C, H, W)."""
        handles = islice(self._walk(range(self.source.parts)), 2)
        return self.source.read([handle for _, handle in handles])[0]

    def take(self, n: int) -> StreamSet:
        """The first n examples; raises InputError unless 1 <= n <= len(self)."""
        if not 1 <= n <= len(self):
            given = f"{n} examples of {self.source.name}"
            raise InputError(given, f"a number from 1 to {len(self)}", "ask for fewer")
        return replace(self, source=First(self.source, n))


def opened(name: str, *, data_dir: Path | None = None, split: str = "test") -> Dataset | StreamSet:
    """As `load`, and a stream where the name is one of a stream: nothing but headers is read then.

    split: which part of a hub set, where the name does not say. Raises what `load`, `shards` and
    `hub_stream` raise, and InputError for a name that makes no stream.
    """
    if not names_stream(name):
        return load(name, data_dir=data_dir, split=split)
    made = parse(_written_out(name), _sources(data_folder(data_dir)), split=split)
    if not isinstance(made, StreamSet):
        raise InputError(f"--data {name}", "a stream", "write stream(shards('train-*.tar'))")
    return made


def _written_out(name: str) -> str:
    scheme, colon, rest = name.partition(":")
    maker = {"shards": "shards", "stream": "hub"}.get(scheme)
    return f"stream({maker}({rest!r}))" if colon and maker else name


def _sources(folder: Path | None) -> dict[str, Callable[..., Any]]:
    found = partial(_shards, folder=folder)
    return {"stream": _stream, "shards": found, "hub": hub_stream, "Centre": Centre}


def _stream(source: Source, buffer: int = 10_000, held: Source | None = None) -> StreamSet:
    rows = None if held is None else next(Stream(held).chunks(len(held)))
    return StreamSet(source, buffer, rows, tuple(getattr(source, "classes", ())))


def _shards(
    where: str, count: int | None = None, crop: Centre | None = None, channels: int = 3,
    classes: int | Sequence[str] = (), *, folder: Path | None = None,
) -> Shards:  # fmt: skip
    """Paths that are not there as given are looked for in the data folder."""
    path = Path(where).expanduser()
    missing = not any(Path(name).is_file() for name in expanded(str(path)))
    place = folder / path if missing and folder is not None else path
    return shards(str(place), count, crop, channels, classes)
