"""Shards in the form of webdataset, read with the standard library: `shards("train-*.tar")`.

A shard is an uncompressed tar file in which the files of an example stand side by side and share
their name up to the first dot: 0001.jpg and 0001.cls, the class number as text.
"""

from __future__ import annotations

import glob
import hashlib
import io
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

from torchproof.core.errors import FileError, InputError
from torchproof.data.folders import SUFFIXES
from torchproof.data.pictures import pillow, stack

if TYPE_CHECKING:
    from PIL.Image import Image

_SPAN = re.compile(r"\{(\d+)\.\.(\d+)\}")
_EXPECTED = "an uncompressed tar file of pictures, each beside its class number (.cls)"


@dataclass(frozen=True)
class Centre:
    """The middle of a picture: its shorter side is brought to `shorter` pixels (bilinear), of that
    the inner square of `size` is kept. (224, 256) is usual for ImageNet.
    """

    size: int
    shorter: int

    def __post_init__(self) -> None:
        if not 0 < self.size <= self.shorter:
            remedy = "Centre(224, 256) is usual"
            raise InputError(repr(self), "0 < size <= shorter", remedy)

    def __call__(self, picture: Image) -> Image:
        scale = self.shorter / min(picture.size)
        width, height = (max(self.shorter, round(side * scale)) for side in picture.size)
        # palettes cannot be interpolated
        plain = picture.convert("L" if picture.mode in ("1", "L") else "RGB")
        scaled = plain.resize((width, height), pillow().Resampling.BILINEAR)
        left, top = (width - self.size) // 2, (height - self.size) // 2
        return scaled.crop((left, top, left + self.size, top + self.size))


class Place(NamedTuple):
    """Where the files of an example begin in its shard, and how long they are."""

    shard: int
    key: str
    picture: tuple[int, int]
    label: tuple[int, int]


@dataclass(frozen=True)
class Shards:
    """The shards at `paths`, `count` examples in all. crop: what makes pictures one size, None for
    pictures that are; channels: 1 for grey, 3 for colour; classes: names of the labels 0, 1, ...
    """

    paths: tuple[Path, ...]
    count: int
    crop: Centre | None = None
    channels: int = 3
    classes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """With names and sizes of the shards as a hash: reading them all would take an epoch."""
        told = "\n".join(f"{path.name} {path.stat().st_size}" for path in self.paths)
        digest = hashlib.sha256(told.encode()).hexdigest()[:16]
        return f"{len(self.paths)} shards {digest}, {self.count} examples, {self.crop}"

    @property
    def parts(self) -> int:
        """How many files there are to share among processes."""
        return len(self.paths)

    def __len__(self) -> int:
        return self.count

    def walk(self, part: int) -> Iterator[Place]:
        """Reads the headers alone; raises FileError for a file that is no such shard."""
        path = self.paths[part]
        try:
            with tarfile.open(path, "r:") as tar:
                yield from _examples(part, _members(tar), path)
        except (OSError, tarfile.TarError, EOFError) as error:
            if isinstance(error, FileError):
                raise
            raise FileError(f"{path} ({error})", _EXPECTED, "restore or unpack it") from error

    def read(self, handles: Sequence[Place]) -> tuple[Tensor, Tensor]:
        """Raises FileError for pictures and labels that cannot be read, InputError for pictures of
        several sizes without a `crop`.
        """
        pictures: dict[Place, tuple[str, Image]] = {}
        labels: dict[Place, int] = {}
        for shard in sorted({place.shard for place in handles}):
            path = self.paths[shard]
            with _opened(path) as file:
                for place in sorted(h for h in handles if h.shard == shard):
                    name = f"{place.key} of {path.name}"
                    labels[place] = _label(name, _bytes(file, place.label))
                    pictures[place] = name, self._picture(name, _bytes(file, place.picture))
        x = stack(pictures[place] for place in handles)
        images = torch.from_numpy(x).permute(0, 3, 1, 2).float().div_(255)
        return images, torch.tensor([labels[place] for place in handles])

    def _picture(self, name: str, content: bytes) -> Image:
        return decoded(name, content, self.crop, self.channels)


def decoded(name: str, content: bytes, crop: Centre | None, channels: int) -> Image:
    """A picture from the bytes of its file, grey or in colour; raises FileError."""
    library = pillow()
    try:
        with library.open(io.BytesIO(content)) as picture:
            made: Image = (picture if crop is None else crop(picture)).convert(
                "L" if channels == 1 else "RGB"
            )
            return made
    except (OSError, ValueError, SyntaxError, library.DecompressionBombError) as error:
        given = f"{name}, which is no picture ({error})"
        raise FileError(given, "a picture that pillow reads", "write the shard again") from error


def shards(
    where: str | Sequence[str | Path],
    count: int | None = None,
    crop: Centre | None = None,
    channels: int = 3,
    classes: int | Sequence[str] = (),
) -> Shards:
    """The shards that a pattern names ("train-*.tar", "train-{000..146}.tar"), or those listed.

    count: examples in all of them; by default they are counted, which reads every header once;
    classes: how many there are, or their names, where that has to be known: shards do not say.
    Raises FileError for no such files, InputError for channels other than 1 and 3.
    """
    if channels not in (1, 3):
        raise InputError(f"{channels} channels", "1 (grey) or 3 (colour)", "choose one of the two")
    named = expanded(where) if isinstance(where, str) else [str(path) for path in where]
    missing = [name for name in named if not Path(name).is_file()]
    if missing or not named:
        given = f"shards {where}, of which {missing[0] if missing else 'none'} is not there"
        raise FileError(given, "tar files", "look at the path")
    paths = tuple(map(Path, named))
    if count is None:
        probe = Shards(paths, 0)
        count = sum(1 for part in range(len(paths)) for _ in probe.walk(part))
    names = map(str, range(classes)) if isinstance(classes, int) else classes
    return Shards(paths, count, crop, channels, tuple(names))


def expanded(pattern: str) -> list[str]:
    """The names of a pattern in order: {000..146} counts, * and ? are looked up."""
    span = _SPAN.search(pattern)
    if span is None:
        return sorted(glob.glob(pattern)) if glob.has_magic(pattern) else [pattern]
    low, high = span.groups()
    numbers = (f"{n:0{len(low)}d}" for n in range(int(low), int(high) + 1))
    return [n for text in numbers for n in expanded(_SPAN.sub(text, pattern, count=1))]


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    kept: Any = tar  # what its type does not name: all members that were read
    while (member := tar.next()) is not None:
        kept.members.clear()
        if member.isfile():
            yield member


def _examples(part: int, members: Iterator[tarfile.TarInfo], path: Path) -> Iterator[Place]:
    key, picture, label = "", None, None
    for member in members:
        folder, _, base = member.name.rpartition("/")
        stem, _, suffix = base.partition(".")
        own, span = f"{folder}/{stem}" if folder else stem, (member.offset_data, member.size)
        if own != key:
            if key:
                yield _whole(part, key, picture, label, path)
            key, picture, label = own, None, None
        if suffix.lower() == "cls":
            label = span
        elif f".{suffix.lower()}" in SUFFIXES:
            picture = span
    if key:
        yield _whole(part, key, picture, label, path)


def _whole(
    part: int, key: str, picture: tuple[int, int] | None, label: tuple[int, int] | None, path: Path
) -> Place:
    if picture is None or label is None:
        lacking = "a picture" if picture is None else "a class number"
        raise FileError(f"{key} of {path} without {lacking}", _EXPECTED, "write the shard again")
    return Place(part, key, picture, label)


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise FileError(f"{path} ({error})", _EXPECTED, "restore it") from error


def _bytes(file: BinaryIO, span: tuple[int, int]) -> bytes:
    file.seek(span[0])
    return file.read(span[1])


def _label(name: str, content: bytes) -> int:
    try:
        return int(content)
    except ValueError as error:
        given = f"{name} with the class {content[:20]!r}"
        raise FileError(given, "a whole number as text", "write the shard again") from error
