"""CIFAR batches are pickles: the arrays in them are read, nothing else in them happens."""

from __future__ import annotations

import os
import pickle
import struct
import subprocess
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from torchproof.core.errors import FileError
from torchproof.data import load
from torchproof.data.cifar import read_batch

DRAW = np.random.default_rng(0)
PIXELS = DRAW.integers(0, 256, (6, 3072), dtype=np.uint8)
LABELS = [3, 8, 8, 0, 6, 9]


def word(text: str) -> bytes:
    return b"U" + bytes([len(text)]) + text.encode()


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def python_two(pixels: np.ndarray = PIXELS, labels: list[int] | None = None) -> bytes:
    """A batch as Python 2 wrote the official ones: protocol 2, byte strings, old numpy names."""
    shape = b"(" + b"".join(map(number, pixels.shape)) + b"t"
    kind = b"cnumpy\ndtype\n(" + word("u1") + number(0) + number(1) + b"tR"
    kind += b"(" + number(3) + word("|") + b"NNN" + number(-1) + number(-1) + number(0) + b"tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(" + number(0) + b"t"
    array += word("b") + b"tR(" + number(1) + shape + kind + b"\x89"
    array += b"T" + struct.pack("<i", pixels.size) + pixels.tobytes() + b"tb"
    listed = b"](" + b"".join(map(number, labels or LABELS)) + b"e"
    label = word("batch_label") + word("testing batch 1 of 1")
    entries = label + word("labels") + listed + word("data") + array
    return b"\x80\x02}(" + entries + b"u."


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_the_official_form_is_read_as_plain_pickle_reads_it(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # numpy's old module names
        plain = pickle.loads(python_two(), encoding="bytes")
    assert plain[b"data"].tolist() == PIXELS.tolist() and plain[b"labels"] == LABELS
    x, y = read_batch(written(tmp_path / "batch", python_two()))
    assert x.dtype == np.uint8 and x.tolist() == plain[b"data"].reshape(6, 3, 32, 32).tolist()
    assert y.tolist() == LABELS


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("labels", [LABELS, np.array(LABELS), np.array(LABELS, ">i4")])
def test_every_protocol_numpy_writes_is_read(
    tmp_path: Path, protocol: int, order: Any, labels: Any
) -> None:
    batch = {"data": np.asarray(PIXELS, order=order), "labels": labels}
    x, y = read_batch(written(tmp_path / "batch", pickle.dumps(batch, protocol)))
    assert np.array_equal(x, PIXELS.reshape(6, 3, 32, 32)) and y.tolist() == LABELS


def test_cifar10_and_cifar100_are_found_by_their_files(tmp_path: Path) -> None:
    ten = tmp_path / "cifar-10-batches-py"
    ten.mkdir()
    for batch in range(5):
        written(ten / f"data_batch_{batch + 1}", python_two(PIXELS[batch : batch + 1], [batch]))
    written(ten / "test_batch", python_two())
    data = load("cifar10", data_dir=tmp_path, split="train")
    expected = torch.from_numpy(PIXELS[:5].reshape(5, 3, 32, 32) / np.float32(255))
    assert torch.equal(data.x, expected) and data.y.tolist() == [0, 1, 2, 3, 4]
    assert data.classes[3] == "cat"

    hundred = tmp_path / "CIFAR100" / "cifar-100-python"
    hundred.mkdir(parents=True)
    for part, label in (("train", 0), ("test", 99)):
        fine = {b"data": PIXELS[:1], b"fine_labels": [label], b"coarse_labels": [19]}
        written(hundred / part, pickle.dumps(fine))
    test = load("cifar100", data_dir=tmp_path)
    assert len(test.classes) == 100 and test.classes[int(test.y[0])] == "worm"

    (ten / "data_batch_4").unlink()
    with pytest.raises(FileError, match="without data_batch_4"):
        load("cifar10", data_dir=tmp_path, split="train")
    assert len(load("cifar10", data_dir=tmp_path)) == 6


class Calls:
    """An object whose pickle calls `function(*args)` when it is loaded."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.reduced = function, args

    def __reduce__(self) -> Any:
        return self.reduced


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("inside", ["alone", "as the data", "as a key", "beside good data"])
@pytest.mark.parametrize("call", ["system", "eval", "exec", "popen", "mkdir"])
def test_a_malicious_batch_is_refused_and_does_not_run(
    tmp_path: Path, call: str, inside: str, protocol: int
) -> None:
    marker = tmp_path / "ran"
    code = f"__import__('pathlib').Path({str(marker)!r}).mkdir(exist_ok=True)"
    hostile = {
        "system": Calls(os.system, f"mkdir -p {marker}"),
        "eval": Calls(eval, code),
        "exec": Calls(exec, code),
        "popen": Calls(subprocess.call, ["mkdir", "-p", str(marker)]),
        "mkdir": Calls(os.makedirs, str(marker), 0o777, True),
    }[call]
    good: dict[Any, Any] = {"data": PIXELS, "labels": LABELS}
    batch = {
        "alone": hostile,
        "as the data": good | {"data": hostile},
        "as a key": good | {hostile: 1},
        "beside good data": good | {"filenames": [hostile]},
    }[inside]
    path = written(tmp_path / "batch", pickle.dumps(batch, protocol))
    with pytest.raises(FileError, match="no CIFAR batch needs"):
        read_batch(path)
    assert not marker.exists()


def test_the_malicious_batch_would_have_run(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    batch = {"data": PIXELS, "labels": Calls(os.system, f"mkdir {marker}")}
    pickle.loads(pickle.dumps(batch))
    assert marker.exists()


def named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


RECONSTRUCT = named("numpy.core.multiarray", "_reconstruct")
POINTERS = (
    # An array of Python objects whose type denies it: numpy would take the bytes for addresses.
    b"\x80\x02}(" + word("labels") + b"](K\x01e" + word("data")
    + RECONSTRUCT + b"(" + named("numpy", "ndarray") + b"(K\x00t" + word("b") + b"tR"
    + b"(K\x01(K\x01t" + named("numpy", "dtype") + b"(" + word("O8") + b"K\x00K\x01tR"
    + b"(K\x03" + word("|") + b"NNN" + number(-1) + number(-1) + b"K\x00tb"
    + b"\x89" + word("AAAAAAAA") + b"tb" + b"u."
)  # fmt: skip


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(POINTERS, id="pointers"),
        pytest.param(named("numpy", "load") + b"(U\x01xtR.", id="numpy.load"),
        pytest.param(named("numpy", "ndarray.tofile") + b".", id="dotted name"),
        pytest.param(named("numpy.core.multiarray", "fromfile") + b".", id="fromfile"),
        pytest.param(named("torchproof.data.cifar", "_Note") + b".", id="own names"),
        pytest.param(named("_codecs", "encode") + b"(X\1\0\0\0xU\3bz2tR.", id="another codec"),
        pytest.param(RECONSTRUCT + b"}U\1aK\1s\x86b.", id="state of a function"),
        pytest.param(RECONSTRUCT + b"N}U\5_makeNs\x86b.", id="slots of a function"),
        pytest.param(b"i" + b"os\nsystem\n.", id="inst"),
        pytest.param(b"\x80\x02\x82\x01.", id="extension registry"),
        pytest.param(b"Pthing\n.", id="persistent id"),
        pytest.param(b"\x80\x05\x97.", id="out-of-band buffer"),
        pytest.param(b"", id="empty"),
        pytest.param(b"no pickle at all", id="text"),
        pytest.param(b"}.", id="empty dictionary"),
        pytest.param(b"].", id="list"),
        pytest.param(python_two()[:-200], id="truncated"),
        pytest.param(python_two().replace(b"u1", b"f4"), id="another type"),
        pytest.param(python_two(labels=[1]), id="too few labels"),
        pytest.param(python_two(PIXELS[:, :3071]), id="too few pixels"),
        pytest.param(pickle.dumps({"data": PIXELS, "labels": [0.5] * 6}), id="float labels"),
        pytest.param(pickle.dumps({"data": PIXELS.astype(int), "labels": LABELS}), id="int pixels"),
    ],
)
def test_hostile_damaged_and_foreign_batches_are_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(FileError, match="batch_file"):
        read_batch(written(tmp_path / "batch_file", content))
