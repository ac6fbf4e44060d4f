"""The public sets as published: counts, first labels, histograms and mean brightness.

Needs $TORCHPROOF_DATA. Histograms and first labels are those of the official files, means the
figures that the literature normalises by.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from torchproof.core.errors import FileError
from torchproof.data import Dataset, load

MNIST_TRAIN = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
MNIST_TEST = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
# What batches 1 to 4 of the five official training batches hold.
CIFAR_40K = [3986, 3986, 4048, 3984, 4003, 3975, 4020, 4023, 3997, 3978]


def loaded(name: str, data_dir: Path, split: str) -> Dataset:
    data = load(name, data_dir=data_dir, split=split)
    assert data.x.min() == 0 and data.x.max() == 1 and data.levels == 255
    return data


def summary(data: Dataset) -> tuple[list[int], list[int]]:
    return data.y[:10].tolist(), data.y.bincount(minlength=10).tolist()


def test_mnist(data_dir: Path) -> None:
    train, test = (loaded("mnist", data_dir, split) for split in ("train", "test"))
    assert train.x.shape == (60000, 1, 28, 28) and test.x.shape == (10000, 1, 28, 28)
    assert summary(train) == ([5, 0, 4, 1, 9, 2, 1, 3, 1, 4], MNIST_TRAIN)
    assert summary(test) == ([7, 2, 1, 0, 4, 1, 4, 9, 5, 9], MNIST_TEST)
    assert float(train.x.mean()) == pytest.approx(0.1307, abs=5e-5)
    assert float(train.x.std()) == pytest.approx(0.3081, abs=5e-5)


def test_fashion_mnist(data_dir: Path) -> None:
    try:
        train, test = (loaded("fashion-mnist", data_dir, split) for split in ("train", "test"))
    except FileError as error:
        if "looked for" not in error.given:
            raise
        pytest.skip("fashion-mnist is not in TORCHPROOF_DATA")
    assert train.x.shape == (60000, 1, 28, 28) and test.x.shape == (10000, 1, 28, 28)
    assert summary(train) == ([9, 0, 0, 3, 0, 2, 7, 2, 5, 5], [6000] * 10)
    assert summary(test) == ([9, 2, 1, 1, 6, 1, 4, 6, 5, 7], [1000] * 10)
    assert float(train.x.mean()) == pytest.approx(0.2860, abs=5e-5)
    assert test.classes[int(test.y[0])] == "Ankle boot"


def test_cifar10_test_part(data_dir: Path) -> None:
    test = loaded("cifar10", data_dir, "test")
    assert test.x.shape == (10000, 3, 32, 32)
    assert summary(test) == ([3, 8, 8, 0, 6, 6, 1, 6, 3, 1], [1000] * 10)
    assert test.x.mean((0, 2, 3)).tolist() == pytest.approx([0.4942, 0.4851, 0.4504], abs=5e-5)
    with np.load(data_dir / "cifar10.npz", allow_pickle=False) as archive:
        pixels, labels = np.moveaxis(archive["x_test"], 3, 1), archive["y_test"].astype("<i8")
    content = b"uint8 10000 3 32 32\n" + pixels.tobytes() + labels.tobytes()
    assert test.sha256 == hashlib.sha256(content).hexdigest()


def test_cifar10_train_part(data_dir: Path) -> None:
    train = loaded("cifar10", data_dir, "train")
    assert train.x.shape[1:] == (3, 32, 32) and len(train) in (40000, 50000)
    histogram = CIFAR_40K if len(train) == 40000 else [5000] * 10
    assert summary(train) == ([6, 9, 9, 4, 1, 1, 2, 7, 8, 3], histogram)
    assert train.x.mean((0, 2, 3)).tolist() == pytest.approx([0.4914, 0.4822, 0.4465], abs=2e-3)


def test_svhn(data_dir: Path) -> None:
    whole = loaded("svhn", data_dir, "all")
    assert whole.x.shape == (1083, 3, 32, 32)
    assert summary(whole)[0] == [1, 9, 2, 3, 2, 5, 9, 3, 3, 1]
    with np.load(data_dir / "svhn.npz", allow_pickle=False) as archive:
        stored = archive["y"]
    assert whole.y.tolist() == stored.tolist()
    train, test = (loaded("svhn", data_dir, split) for split in ("train", "test"))
    assert (len(train), len(test)) == (866, 217)
    assert (train.y.bincount() + test.y.bincount()).tolist() == np.bincount(stored).tolist()


def test_sets_without_a_name_are_read_by_path(data_dir: Path) -> None:
    data = load("npz:textures.npz", data_dir=data_dir)
    assert data.x.shape == (240, 3, 128, 128) and data.y.bincount().tolist() == [24] * 10
    assert "banded" in data.classes
