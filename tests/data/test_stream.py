"""Streams: every example once, in an order that (seed, epoch) alone decides, from any batch on."""

from __future__ import annotations

import io
import tarfile
import tracemalloc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from torchproof.core.errors import FileError, InputError
from torchproof.data.shards import Centre, shards
from torchproof.data.stream import Batches, Stream, shuffled


@dataclass(frozen=True)
class Numbers:
    """A source whose example number i is the image i / count, with the label i % 3."""

    sizes: tuple[int, ...]
    said: int | None = None
    name: str = "numbers"

    @property
    def parts(self) -> int:
        return len(self.sizes)

    def __len__(self) -> int:
        return sum(self.sizes) if self.said is None else self.said

    def walk(self, part: int) -> Iterator[int]:
        start = sum(self.sizes[:part])
        return iter(range(start, start + self.sizes[part]))

    def read(self, handles: Sequence[int]) -> tuple[Tensor, Tensor]:
        numbers = torch.tensor(handles)
        return (numbers / len(self)).float().view(-1, 1, 1, 1), numbers % 3


def numbers_of(x: Tensor, count: int) -> list[int]:
    return [round(float(v) * count) for v in x.flatten()]


def epoch(stream: Stream, seed: int = 0, number: int = 0, first: int = 0) -> list[list[int]]:
    made = stream.batches(7, seed, number, first)
    return [numbers_of(x, len(stream)) for x, *_ in made]


def test_an_epoch_has_every_example_once_in_batches_equal_up_to_one() -> None:
    stream = Stream(Numbers((20, 1, 30)), buffer=8)
    found = epoch(stream)
    assert sorted(chain.from_iterable(found)) == list(range(51))
    assert len(found) == stream.steps(7) == 8 and {len(b) for b in found} == {6, 7}
    for x, y, ids, count in stream.batches(7, 0, 0):
        wanted = numbers_of(x, 51)
        assert y.tolist() == [i % 3 for i in wanted] and count == len(x)
        part = [0 if i < 20 else 1 if i < 21 else 2 for i in wanted]
        place = [i - (0, 20, 21)[p] for i, p in zip(wanted, part, strict=True)]
        assert ids.tolist() == [p * 2**32 + i for p, i in zip(part, place, strict=True)]


def test_the_order_is_that_of_seed_and_epoch_and_can_be_taken_up_anywhere() -> None:
    stream = Stream(Numbers((20, 1, 30)), buffer=8)
    assert epoch(stream) == epoch(stream)
    assert epoch(stream, seed=1) != epoch(stream) != epoch(stream, number=1)
    for first in range(9):
        assert epoch(stream, first=first) == epoch(stream)[first:]


def test_processes_share_each_batch() -> None:
    stream = Stream(Numbers((20, 1, 30)), buffer=8)
    shares = [list(stream.batches(7, 0, 3, 2, rank, 2)) for rank in range(2)]
    whole = list(stream.batches(7, 0, 3, 2))
    for x, y, ids, count in whole:
        mine = [part.pop(0) for part in shares]
        for rank in range(2):
            assert torch.equal(mine[rank][0], x[rank::2]) and torch.equal(mine[rank][1], y[rank::2])
            assert torch.equal(mine[rank][2], ids[rank::2]) and mine[rank][3] == count


def test_the_buffer_draws_evenly_from_what_waits() -> None:
    """The first item out is uniform over the first `size`; nothing leaves before it has come."""
    first = [next(shuffled(iter(range(50)), 10, 0, e)) for e in range(500)]
    counts = np.bincount(first, minlength=10)
    assert len(counts) == 10 and ((counts - 50) ** 2 / 50).sum() < 27.9  # chi2, 9 df, p = 0.001
    found = list(shuffled(iter(range(50)), 10, 0, 0))
    assert sorted(found) == list(range(50)) and found != list(range(50))
    assert all(item <= place + 9 for place, item in enumerate(found))
    assert list(shuffled(iter(range(5)), 1, 0, 0)) == list(range(5))


def test_chunks_keep_the_order_of_the_source() -> None:
    stream = Stream(Numbers((20, 1, 30)))
    for first in range(8):
        found = [numbers_of(x, 51) for x, _ in stream.chunks(10, first)]
        assert found == [list(range(51))[i : i + 10] for i in range(first * 10, 51, 10)]


def test_what_cannot_be_meant_is_refused() -> None:
    with pytest.raises(InputError, match="a buffer of 0"):
        Stream(Numbers((3,)), buffer=0)
    with pytest.raises(InputError, match="0 examples"):
        Stream(Numbers((0,)))
    short = Stream(Numbers((3,), said=5))
    with pytest.raises(FileError, match="ends before its 5 examples"):
        list(short.batches(2, 0, 0))
    with pytest.raises(FileError, match="ends before its 5 examples"):
        list(short.chunks(2))
    with pytest.raises(InputError, match="0 batches"):
        Batches(lambda epoch: [], 0)
    few = Batches(lambda epoch: [(torch.zeros(2, 1, 1, 1), torch.zeros(2).long())], 2)
    with pytest.raises(InputError, match="with 1 batches in epoch 4"):
        list(few.batches(2, 0, 3))


def test_batches_of_somebody_else() -> None:
    x = torch.arange(12).float().view(6, 2, 1, 1, 1) / 12
    made = Batches(lambda e: [(part, torch.full((2,), e)) for part in x], 5, "mine")
    found = list(made.batches(99, 0, 7, first=2, rank=1, world=2))
    assert len(found) == 3 and made.steps(99) == 5
    for number, (images, y, ids, count) in enumerate(found, 2):
        assert torch.equal(images, x[number][1:]) and y.tolist() == [7] and count == 2
        assert ids.tolist() == [number * 2**32 + 1]


def test_a_walk_through_a_million_examples_keeps_a_buffer_and_a_batch() -> None:
    stream = Stream(Numbers((250_000,) * 4), buffer=1000)
    walk = stream.batches(5_000, 0, 0)
    next(walk)
    tracemalloc.start()
    seen = sum(len(x) for x, *_ in islice(walk, 16))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seen == 80_000 and peak < 4 * 2**20


def tar(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as out:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            out.addfile(info, io.BytesIO(content))
    return path


def png(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(array).save(out, "png")
    return out.getvalue()


RNG = np.random.default_rng(0)
PICTURES = RNG.integers(0, 256, (9, 5, 4, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Nine pictures in shards of four, four and one, some with files that nobody asks for."""
    for shard in range(3):
        files = {}
        for i in range(4 * shard, min(9, 4 * shard + 4)):
            files[f"set/{i:04d}.json"] = b"{}"
            files[f"set/{i:04d}.png"] = png(PICTURES[i])
            files[f"set/{i:04d}.cls"] = str(i % 3).encode()
        tar(tmp_path / f"train-{shard:02d}.tar", files)
    return tmp_path


@pytest.mark.parametrize("pattern", ["train-*.tar", "train-{00..02}.tar"])
def test_shards_of_webdataset(folder: Path, pattern: str) -> None:
    source = shards(str(folder / pattern))
    assert len(source) == 9 and source.parts == 3
    (x, y), = Stream(source).chunks(9)  # fmt: skip
    assert torch.equal(x, torch.from_numpy(PICTURES).permute(0, 3, 1, 2).float() / 255)
    assert y.tolist() == [i % 3 for i in range(9)]
    found = {int(i): x for xs, _, ids, _ in Stream(source, 3).batches(4, 0, 1)
             for i, x in zip(ids, xs, strict=True)}  # fmt: skip
    assert sorted(found) == [s * 2**32 + i for s in range(3) for i in range((4, 4, 1)[s])]
    for i, image in found.items():
        assert torch.equal(image, x[4 * (i >> 32) + i % 2**32])
    grey = shards([folder / "train-02.tar"], channels=1, crop=Centre(3, 4))
    assert next(Stream(grey).chunks(1))[0].shape == (1, 1, 3, 3)


def test_another_set_of_shards_has_another_name(folder: Path) -> None:
    one, other = (shards(str(folder / f"train-{{00..0{i}}}.tar")) for i in (1, 2))
    assert one.name != other.name and one.name == shards(str(folder / "train-0[01].tar")).name
    assert one.name != shards(str(folder / "train-0[01].tar"), crop=Centre(2, 2)).name


def test_the_centre_of_a_picture() -> None:
    wide = np.zeros((4, 8, 3), np.uint8)
    wide[1:3, 3:5] = 200
    out = np.asarray(Centre(2, 4)(Image.fromarray(wide)))
    assert out.shape == (2, 2, 3) and (out == 200).all()
    half = np.asarray(Centre(2, 2)(Image.fromarray(wide)))
    assert half.shape == (2, 2, 3) and 0 < half.max() < 200
    with pytest.raises(InputError, match="Centre"):
        Centre(5, 4)


def test_broken_shards_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileError, match="none is not there"):
        shards(str(folder / "test-*.tar"))
    with pytest.raises(FileError, match=r"gone\.tar is not there"):
        shards([folder / "train-00.tar", folder / "gone.tar"])
    with pytest.raises(FileError, match=r"0001 of .* without a class number"):
        shards([tar(tmp_path / "a.tar", {"0001.png": png(PICTURES[0])})])
    with pytest.raises(FileError, match="without a picture"):
        shards([tar(tmp_path / "b.tar", {"0001.cls": b"1"})])
    (tmp_path / "c.tar").write_bytes(b"no tar file at all" * 100)
    with pytest.raises(FileError, match="an uncompressed tar file"):
        shards([tmp_path / "c.tar"])
    for content, match in (
        ({"1.png": b"x", "1.cls": b"1"}, "no picture"),
        ({"1.png": png(PICTURES[0]), "1.cls": b"cat"}, "the class b'cat'"),
    ):
        source = shards([tar(tmp_path / "d.tar", content)])
        with pytest.raises(FileError, match=match):
            list(Stream(source).chunks(1))
    sizes = {"1.png": png(PICTURES[0]), "1.cls": b"1", "2.png": png(PICTURES[0][:3]), "2.cls": b"1"}
    with pytest.raises(InputError, match="pictures of one size"):
        list(Stream(shards([tar(tmp_path / "e.tar", sizes)])).chunks(2))
    with pytest.raises(InputError, match="2 channels"):
        shards([folder / "train-00.tar"], channels=2)
