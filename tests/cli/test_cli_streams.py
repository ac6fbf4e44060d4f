"""`--data` that names a stream: the same decisions and weights as with the images in memory."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from torchproof.cli import radii
from torchproof.core.errors import FileError, InputError
from torchproof.data import load, streamed_set
from torchproof.data.shards import shards
from torchproof.data.streamed_set import StreamSet, opened
from torchproof.nn import load_model

COUNTS = (20, 12, 8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty of the bundled digits, as three shards, as an .npz, and six more as a shard."""
    out, test = tmp_path_factory.mktemp("shards"), load("digits", split="test")
    pixels = test.x.mul(255).round().to(torch.uint8)[:, 0].numpy()
    start = 0
    for number, count in enumerate((*COUNTS, 6)):
        name = "held.tar" if number == len(COUNTS) else f"digits-{number}.tar"
        with tarfile.open(out / name, "w") as tar:
            for i in range(start, start + count):
                picture = io.BytesIO()
                Image.fromarray(pixels[i]).save(picture, "png")
                label = str(int(test.y[i])).encode()
                for suffix, content in (("png", picture.getvalue()), ("cls", label)):
                    info = tarfile.TarInfo(f"{i:04d}.{suffix}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
        start += count
    return out


def rows(out: Path) -> list[dict[str, str]]:
    """What was decided about each example, in order."""
    with (out / "examples.csv").open() as file:
        return [{k: row[k] for k in ("label", "status")} for row in csv.DictReader(file)]


def test_a_stream_is_evaluated_as_its_images_are(
    cli: Callable[..., Any], trained: Path, folder: Path, tmp_path: Path
) -> None:
    asked = ("--threat", "linf:0.1", "--suite", "quick", "--n", 35)
    data = f"stream(shards('{folder}/digits-{{0..2}}.tar', channels=1))"
    again = ("evaluate", trained, "--data", data, *asked, "--chunk", 16, "--out", tmp_path / "s")
    answer = cli(*again)
    assert "n = 35, threat linf:0.1" in answer.words and "3 chunks, each with" in answer.words
    assert "PGD-20" in answer.out
    page = (tmp_path / "s" / "report.html").read_text()
    assert "Accuracy by class" in page and "Held-out" in page and "FAILS" not in page
    found = json.loads((tmp_path / "s" / "result.json").read_bytes())
    assert found["data"] == data and found["chunks"] == 3
    chunks = sorted((tmp_path / "s" / "chunks").iterdir())
    decided = [row for chunk in chunks for row in rows(chunk)]

    source = opened(data)
    assert isinstance(source, StreamSet)
    x, y = next(source.chunks(35))
    np.savez(tmp_path / "set.npz", x_test=x.numpy(), y_test=y.numpy(), x_train=x, y_train=y)
    cli("evaluate", trained, "--data", f"npz:{tmp_path}/set.npz", *asked, "--out", tmp_path / "m")
    assert decided == rows(tmp_path / "m") and len(decided) == 35
    whole = json.loads((tmp_path / "m" / "result.json").read_bytes())
    for name in ("n", "clean_accuracy", "robust_accuracy", "robust_accuracy_ci95"):
        assert found[name] == whole[name], name

    cli(*again).refused("holds a run")
    assert "n = 35" in cli(*again, "--resume").words


def test_an_evaluation_out_of_time_says_so_and_goes_on(
    cli: Callable[..., Any], trained: Path, folder: Path, tmp_path: Path
) -> None:
    data = f"stream(shards('{folder}/digits-*.tar', channels=1))"
    asked = ("evaluate", trained, "--data", data, "--threat", "linf:0.1", "--attack", "PGD(2)")
    asked += ("--chunk", 8, "--out", tmp_path / "s")
    stopped = cli(*asked, "--max-seconds", 0.001)
    assert not json.loads((tmp_path / "s" / "result.json").read_bytes())["complete"]
    assert stopped.code == 1 and "start it again with --resume" in stopped.words
    finished = cli(*asked, "--resume")
    whole = json.loads((tmp_path / "s" / "result.json").read_bytes())
    assert whole["complete"] and whole["n"] == sum(COUNTS) and "n = 40" in finished.words


def test_shards_of_a_stream_with_their_curves_are_merged_and_processes_share_one(
    cli: Callable[..., Any], pair: Callable[..., list[Any]], trained: Path, folder: Path,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """With curves of two radii."""
    monkeypatch.setattr(radii, "FACTORS", (0.5, 2.0))
    data = f"stream(shards('{folder}/digits-*.tar', channels=1))"
    asked = ("evaluate", trained, "--data", data, "--threat", "linf:0.1", "--attack", "PGD(1)")
    asked += ("--chunk", 8, "--first", 24)
    processes = pair(*asked, "--curve", "--out", tmp_path / "two")
    shards = [tmp_path / f"shard{i}" for i in range(2)]
    for i, out in enumerate(shards):
        assert cli(*asked, "--curve", "--shard", f"{i}/2", "--out", out).code in (0, 1)
    merged = cli("merge", *shards, "--out", tmp_path / "m")
    assert "n = 24" in merged.words and "3 chunks" in merged.words
    said = "".join(process.end() for process in processes)
    assert said.count("verdict") == 1, said  # one process speaks
    for name in ("", "curve/0.05", "curve/0.2"):
        one, two = (
            json.loads((tmp_path / out / name / "result.json").read_bytes()) for out in ("m", "two")
        )
        for key in ("n", "clean_accuracy", "robust_accuracy", "data_sha256", "flags", "complete"):
            assert one[key] == two[key], (name, key)
    pages = [(tmp_path / out / "report.html").read_text() for out in ("m", "two")]
    assert all(page.count("ε = 0.05, quick") == 1 for page in pages)
    cli("merge", shards[0], "--out", tmp_path / "n").refused("every shard once")


def test_a_network_is_trained_on_a_stream_and_resumed(
    cli: Callable[..., Any], folder: Path, tmp_path: Path
) -> None:
    shards = "shards('{}.tar', channels=1, classes=10)"
    parts = shards.format("digits-{0..2}"), shards.format("held")
    data = f"stream({parts[0]}, buffer=10, held={parts[1]})"
    asked = ("train", "--data", data, "--data-dir", folder, "--model", "mlp(hidden=(8,))")
    asked += ("--method", "AT(steps=1)", "--threat", "linf:0.05", "--batch-size", 10)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    answer = cli(*asked, "--epochs", 3, "--out", whole)
    assert answer.code == 0 and "(40 rows)" in answer.words and "n = 6" in answer.words
    card = load_model(str(whole)).card
    assert card["data"] == data and card["classes"] == list("0123456789")

    stopped = cli(*asked, "--epochs", 3, "--out", cut, "--max-seconds", 0)
    assert stopped.code == 1
    assert cli(*asked, "--epochs", 3, "--out", cut, "--resume").code == 0
    one, two = (load_model(str(out)).model.state_dict() for out in (whole, cut))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_what_a_network_cannot_be_shaped_by_is_refused(
    cli: Callable[..., Any], folder: Path, tmp_path: Path
) -> None:
    asked = ("train", "--data", f"shards:{folder}/held.tar", "--out", tmp_path / "t")
    cli(*asked).refused("classes are unknown", "classes=1000")


def test_other_commands_say_that_they_need_data_in_memory(
    cli: Callable[..., Any], trained: Path, folder: Path, tmp_path: Path
) -> None:
    asked = ("--data", f"shards:{folder}/held.tar", "--threat", "linf:0.1")
    cli("certify", trained, *asked, "--out", tmp_path / "c").refused("a stream", "fits into memory")
    with pytest.raises(InputError, match="a stream"):
        load(f"shards:{folder}/held.tar")


def test_names_of_streams(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = opened("shards:digits-{0..2}.tar", data_dir=folder)
    assert isinstance(short, StreamSet) and len(short) == 40 and short.head().shape == (2, 3, 8, 8)
    monkeypatch.chdir(folder)
    here = opened("shards:digits-*.tar", data_dir=folder / "nowhere")
    assert isinstance(here, StreamSet) and here.sha256 == short.sha256
    first = here.take(25)
    assert isinstance(first, StreamSet) and len(first) == 25 and first.sha256 != here.sha256
    x, y = next(here.chunks(25))
    again, labels = next(first.chunks(40))
    assert torch.equal(x, again) and torch.equal(y, labels)
    with pytest.raises(InputError, match="from 1 to 40"):
        here.take(41)
    with pytest.raises(FileError, match="not there"):
        opened("shards:nothing.tar", data_dir=folder)
    with pytest.raises(InputError, match="a known name"):
        opened("stream(__import__('os').name)")
    with pytest.raises(InputError, match="wrong arguments"):
        opened("stream()")


def test_a_hub_set_is_read_in_the_part_that_a_command_asks_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub itself stands in tests/data/test_hub_stream.py."""
    asked = []

    def hub_stream(name: str, split: str = "train", count: int | None = None) -> Any:
        asked.append((name, split, count))
        return shards(str(folder / "held.tar"), channels=1)

    monkeypatch.setattr(streamed_set, "hub_stream", hub_stream)
    for text in ("stream:owner/set", "stream(hub('owner/set', split='validation', count=6))"):
        assert len(opened(text, split="test")) == 6
    opened("stream:owner/set", split="train")
    assert asked == [
        ("owner/set", "test", None),
        ("owner/set", "validation", 6),
        ("owner/set", "train", None),
    ]
