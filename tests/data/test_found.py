"""Splitting is a law, not a habit: disjoint, complete, stratified, and always the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from torchproof.core.errors import FileError, InputError
from torchproof.data.found import Arrays, Found, choose, split_rows

labellings = st.lists(st.integers(0, 4), min_size=2, max_size=60)


@given(labellings, st.data())
def test_a_split_is_disjoint_complete_and_stratified(labels: list[int], data: Any) -> None:
    y = torch.tensor(labels)
    wanted = data.draw(st.integers(1, len(labels) - 1))
    train, test = (rows.tolist() for rows in split_rows(y, wanted))
    assert len(test) == wanted
    assert sorted(train + test) == list(range(len(labels)))
    for label in set(labels):
        share = labels.count(label) * wanted / len(labels)
        held_out = sum(labels[row] == label for row in test)
        assert abs(held_out - share) < 1


def test_a_split_is_the_same_every_time_and_draws_from_no_global_state() -> None:
    y = torch.arange(50) % 7
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = split_rows(y, 11)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    second = split_rows(y, 11)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_the_first_rows_of_a_split_are_no_single_class() -> None:
    y = torch.arange(10).repeat_interleave(100)  # sorted by class, as class folders are
    train, test = split_rows(y, 200)
    assert len(set(y[train[:50]].tolist())) > 7 and len(set(y[test[:50]].tolist())) > 7


@pytest.mark.parametrize("test", [0, 5, 6])
def test_a_split_without_two_sides_is_refused(test: int) -> None:
    with pytest.raises(InputError, match="split"):
        split_rows(torch.arange(5), test)


def numbered(start: int, stop: int) -> Arrays:
    """1 x 1 grey pictures whose brightness is their number, labels by parity."""
    numbers = np.arange(start, stop)
    return numbers.astype(np.uint8).reshape(-1, 1, 1), numbers % 2


def found(**parts: Arrays) -> Found:
    readers = {part: (lambda arrays=arrays: arrays) for part, arrays in parts.items()}
    return Found("here", readers, ("even", "odd"))


def numbers(chosen: torch.Tensor) -> list[int]:
    return [round(float(v) * 255) for v in chosen.flatten()]


def test_parts_that_are_there_are_taken_as_they_are() -> None:
    both = found(train=numbered(0, 6), test=numbered(6, 10))
    assert numbers(choose(both, "train", "n").x) == [0, 1, 2, 3, 4, 5]
    assert numbers(choose(both, "test", "n").x) == [6, 7, 8, 9]
    whole = choose(both, "all", "n")
    assert numbers(whole.x) == list(range(10)) and whole.split == "all"
    assert whole.y.tolist() == [0, 1] * 5


def test_only_the_part_asked_for_is_read() -> None:
    def never() -> Arrays:
        raise AssertionError("this part was not asked for")

    lazy = Found("here", {"train": never, "test": lambda: numbered(0, 4)}, ("even", "odd"))
    assert len(choose(lazy, "test", "n")) == 4


def test_a_set_without_a_split_is_split_eighty_to_twenty() -> None:
    whole = found(all=numbered(0, 50))
    train, test = choose(whole, "train", "n"), choose(whole, "test", "n")
    assert (len(train), len(test)) == (40, 10)
    assert sorted(numbers(train.x) + numbers(test.x)) == list(range(50))
    assert test.y.sum() == 5
    assert all(n % 2 == label for n, label in zip(numbers(test.x), test.y.tolist(), strict=True))
    assert numbers(choose(whole, "all", "n").x) == list(range(50))


@pytest.mark.parametrize("split", ["test", "all"])
def test_half_a_set_is_not_taken_for_the_other_half(split: str) -> None:
    with pytest.raises(FileError, match="only the part train"):
        choose(found(train=numbered(0, 4)), split, "n")


GREY = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
COLOUR = np.arange(72, dtype=np.uint8).reshape(2, 3, 4, 3)


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (GREY, GREY[:, None]),
        (GREY[:, None], GREY[:, None]),
        (GREY[..., None], GREY[:, None]),
        (COLOUR, np.moveaxis(COLOUR, 3, 1)),
        (np.moveaxis(COLOUR, 3, 1), np.moveaxis(COLOUR, 3, 1)),
        (GREY / 255, GREY[:, None]),
        ((GREY / 255).astype(">f4"), GREY[:, None]),
    ],
)
def test_channels_come_second_however_they_were_stored(
    stored: np.ndarray, expected: np.ndarray
) -> None:
    data = choose(found(all=(stored, np.array([0, 1]))), "all", "n")
    assert data.x.dtype == torch.float32 and data.x.is_contiguous()
    assert data.x.shape == expected.shape
    for place in np.ndindex(expected.shape):
        assert float(data.x[place]) == np.float32(int(expected[place]) / 255)


@pytest.mark.parametrize("kind", ["u1", "i4", ">i8", "u8"])
def test_labels_of_any_integer_type_and_as_a_column(kind: str) -> None:
    for y in (np.array([1, 0], kind), np.array([[1], [0]], kind)):
        labels = choose(found(all=(GREY, y)), "all", "n").y
        assert labels.dtype == torch.int64 and labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("x", "y", "says"),
    [
        (np.zeros((2, 4, 4, 2), np.uint8), [0, 1], "1 or 3 channels"),
        (GREY[0], [0, 1], "1 or 3 channels"),
        (GREY.astype(np.int64), [0, 1], "int64"),
        (GREY.astype(np.uint16), [0, 1], "uint16"),
        (GREY.astype(np.float32), [0, 1], "divide by 255"),
        (GREY, [0.0, 1.0], "one integer per image"),
        (GREY, [[1, 0], [0, 1]], "one integer per image"),
        (GREY, [0, 1, 1], "labels of shape"),
        (GREY, [0, 2], "label 2"),
        (GREY[:0], np.empty(0, np.int64), "empty"),
    ],
)
def test_arrays_that_cannot_be_meant_are_refused(x: np.ndarray, y: list[int], says: str) -> None:
    with pytest.raises(InputError, match=says):
        choose(found(all=(x, np.array(y))), "all", "n")
