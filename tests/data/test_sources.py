"""Data sets by name: the bundled digits, where others are looked for, what is said in vain."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from torchproof.core.errors import FileError, UnknownName
from torchproof.data import DATASETS, check, load
from torchproof.data.classes import CIFAR10, CIFAR100, CLOTHES, DIGITS
from torchproof.data.sources import KNOWN

X = np.arange(40, dtype=np.uint8).reshape(10, 2, 2)
Y = np.arange(10)


def test_the_digits_are_split_once_and_for_all() -> None:
    train, test = load("digits", split="train"), load("digits")
    assert (len(train), len(test)) == (1297, 500)
    bunch = load_digits()
    everything = torch.tensor(bunch.images[:, None] / 16, dtype=torch.float32)
    assert sorted(rows(torch.cat([train.x, test.x]))) == sorted(rows(everything))
    labels = {tuple(i): int(y) for i, y in zip(rows(everything), bunch.target, strict=True)}
    for part in (train, test):
        assert part.x.shape[1:] == (1, 8, 8) and part.x.max() == 1 and part.classes == DIGITS
        assert [labels[tuple(i)] for i in rows(part.x)] == part.y.tolist()
        check(part.x, part.y, 10)
    shares = np.bincount(bunch.target) * 500 / 1797
    assert np.abs(test.y.bincount().numpy() - shares).max() < 1


def rows(x: torch.Tensor) -> list[list[float]]:
    result: list[list[float]] = x.flatten(1).tolist()
    return result


def test_the_split_of_the_digits_never_changes() -> None:
    assert load("digits").sha256 == (
        "72ba4ef3eb6f86cf0f0b4e87f2185c2e08e5dcaeb1a6ed1ad7e3ce6bd98380fd"
    )
    assert load("digits", split="train").sha256 == (
        "1823c5f5d6521a46d1ee038025938b956296e439bc76c14a609a4099b49011fb"
    )


def test_digits_need_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHPROOF_DATA", raising=False)
    assert len(load("digits", split="all")) == 1797
    assert load("digits", data_dir=tmp_path / "missing").sha256 == load("digits").sha256


@pytest.mark.parametrize("file", ["fashion-mnist.npz", "fashion_mnist.npz", "FashionMNIST.npz"])
@pytest.mark.parametrize("name", ["fashion-mnist", "fashion_mnist", "FashionMNIST"])
def test_spelling_does_not_matter(tmp_path: Path, file: str, name: str) -> None:
    np.savez(tmp_path / "mnist.npz", x=X + 1, y=Y)
    np.savez(tmp_path / file, x=X, y=Y)
    data = load(name, data_dir=tmp_path, split="all")
    assert data.name == "fashion-mnist" and data.classes == CLOTHES
    assert float(data.x[0, 0, 0, 1]) == np.float32(1 / 255)


def test_the_folder_given_goes_before_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place, offset in (("given", 0), ("environment", 5)):
        (tmp_path / place / "svhn").mkdir(parents=True)
        np.savez(tmp_path / place / "svhn" / "svhn.npz", x=X + np.uint8(offset), y=Y)
    monkeypatch.setenv("TORCHPROOF_DATA", str(tmp_path / "environment"))
    given = load("svhn", data_dir=tmp_path / "given", split="all")
    assert float(given.x.min()) == 0.0
    assert float(load("svhn", split="all").x.min()) == np.float32(5 / 255)


@pytest.mark.parametrize("name", KNOWN)
def test_a_missing_set_says_where_it_was_looked_for_and_what_to_put_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.delenv("TORCHPROOF_DATA", raising=False)
    (tmp_path / name).mkdir()  # something of that name, but nothing readable in it
    for folder, where in (
        (tmp_path, [str(tmp_path), str(tmp_path / name)]),
        (tmp_path / "missing", [str(tmp_path / "missing")]),
        (None, ["--data-dir"]),
    ):
        with pytest.raises(FileError) as caught:
            load(name, data_dir=folder)
        for part in [*where, f"{name}.npz", "x_train", KNOWN[name].folder, "TORCHPROOF_DATA"]:
            assert part in str(caught.value)


@pytest.mark.parametrize(
    ("given", "suggested"),
    [("cifr10", "cifar10"), ("minst", "mnist"), ("digit", "digits"), ("folder", "folder:PATH")],
)
def test_an_unknown_name_suggests_the_nearest(given: str, suggested: str) -> None:
    with pytest.raises(UnknownName, match=suggested):
        load(given)


@pytest.mark.parametrize("given", ["", "zzzz", "zip:file", "npz:", "digits:"])
def test_names_like_none_are_refused(given: str) -> None:
    with pytest.raises(UnknownName):
        load(given)


def test_an_unknown_split_suggests_the_nearest() -> None:
    with pytest.raises(UnknownName, match="train"):
        load("digits", split="training")


def test_loading_leaves_the_global_random_state_alone(tmp_path: Path) -> None:
    np.savez(tmp_path / "svhn.npz", x=X, y=Y)
    torch_state = torch.get_rng_state()
    numpy_state = np.random.get_state(legacy=False)["state"]["key"].copy()
    load("digits")
    load("svhn", data_dir=tmp_path)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state(legacy=False)["state"]["key"], numpy_state)


def test_tables_are_complete() -> None:
    assert set(KNOWN) < set(DATASETS) and all(DATASETS.values())
    for names, count in ((DIGITS, 10), (CLOTHES, 10), (CIFAR10, 10), (CIFAR100, 100)):
        assert len(set(names)) == count
    assert list(CIFAR10) == sorted(CIFAR10) and list(CIFAR100) == sorted(CIFAR100)
