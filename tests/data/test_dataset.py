"""The labelled set: what it holds, how parts are taken, and what its fingerprint covers."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from torch import Tensor

from torchproof.core.errors import InputError
from torchproof.data import Dataset, fingerprint

NAMES = ("cat", "dog", "owl")


def raw(count: int = 9, levels: int = 255) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, levels + 1, (count, 3, 4, 5), dtype=np.uint8)
    return pixels, draw.integers(0, 3, count)


def tensors(count: int = 9, levels: int = 255) -> tuple[Tensor, Tensor]:
    pixels, labels = raw(count, levels)
    return torch.from_numpy(pixels).float() / levels, torch.from_numpy(labels)


def made(levels: int = 255) -> Dataset:
    return Dataset.of(*tensors(levels=levels), NAMES, "pets", "test", levels)


@pytest.mark.parametrize("levels", [255, 16])
def test_the_fingerprint_of_bytes_is_that_of_the_source(levels: int) -> None:
    pixels, labels = raw(levels=levels)
    header = b"uint8 9 3 4 5\n"
    expected = hashlib.sha256(header + pixels.tobytes() + labels.astype("<i8").tobytes())
    assert made(levels).sha256 == expected.hexdigest()


def test_the_fingerprint_of_floats_is_that_of_their_bytes() -> None:
    x, y = tensors()
    x = x.sqrt()
    content = x.numpy().astype("<f4").tobytes() + y.numpy().astype("<i8").tobytes()
    expected = hashlib.sha256(b"float32 9 3 4 5\n" + content).hexdigest()
    assert fingerprint(x, y) == expected
    assert Dataset.of(x.double(), y, NAMES, "pets", "test").sha256 == expected


def test_the_fingerprint_does_not_depend_on_memory_layout_or_blocks() -> None:
    x, y = tensors(4099)  # more than one block
    strided = x.to(memory_format=torch.channels_last)
    assert fingerprint(strided, y, 255) == fingerprint(x, y, 255)
    pixels, labels = raw(4099)
    content = pixels.tobytes() + labels.astype("<i8").tobytes()
    expected = hashlib.sha256(b"uint8 4099 3 4 5\n" + content).hexdigest()
    assert fingerprint(x, y, 255) == expected


def test_the_fingerprint_notices_every_change() -> None:
    x, y = tensors()
    brighter, relabelled = x.clone(), y.clone()
    brighter[3, 1, 2, 2] = (brighter[3, 1, 2, 2] * 255 + 1) % 256 / 255
    relabelled[3] = (relabelled[3] + 1) % 3
    order = torch.tensor([1, 0, *range(2, 9)])
    variants = [
        (x, y),
        (brighter, y),
        (x, relabelled),
        (x[order], y[order]),
        (x.reshape(9, 3, 5, 4), y),
        (x[:8], y[:8]),
    ]
    assert len({fingerprint(*v, 255) for v in variants}) == len(variants)


def test_taking_rows_keeps_everything_in_step() -> None:
    data = made()
    part = data.subset([4, 0, 4])
    for new, old in enumerate([4, 0, 4]):
        assert torch.equal(part.x[new], data.x[old]) and part.y[new] == data.y[old]
    assert (part.classes, part.name, part.split, len(part)) == (NAMES, "pets", "test", 3)
    assert part.sha256 == fingerprint(part.x, part.y, 255) != data.sha256
    assert torch.equal(data.take(2).x, data.x[:2])
    assert data.take(2).sha256 == data.subset(torch.tensor([0, 1])).sha256
    assert data.take(9).sha256 == data.sha256


def test_a_copy_of_rows_does_not_share_memory_with_the_set() -> None:
    data = made()
    before = data.x.clone()
    data.take(3).x.zero_()
    assert torch.equal(data.x, before)


@pytest.mark.parametrize("n", [0, -1, 10])
def test_taking_more_than_there_is_is_refused(n: int) -> None:
    with pytest.raises(InputError, match="from 1 to 9"):
        made().take(n)


@pytest.mark.parametrize("rows", [[], [9], [-1], [0.5], [True, False], [[0, 1]]])
def test_rows_that_cannot_be_meant_are_refused(rows: list[int]) -> None:
    with pytest.raises(InputError):
        made().subset(rows)


def test_a_set_is_checked_when_it_is_made() -> None:
    x, y = tensors()
    with pytest.raises(InputError, match="from 0 to 1"):
        Dataset.of(x, y.clamp(max=1).index_fill(0, torch.tensor([2]), 2), NAMES[:2], "pets", "all")
    with pytest.raises(InputError, match="divide by 255"):
        Dataset.of(x * 255, y, NAMES, "pets", "all")
    assert Dataset.of(x.half(), y, NAMES, "pets", "all").x.dtype == torch.float32
