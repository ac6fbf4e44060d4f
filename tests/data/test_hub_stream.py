"""Streamed sets of the hub, with a stand-in for the package datasets."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from torchproof.core.errors import FileError, InputError, MissingExtra
from torchproof.data.hub_stream import hub_stream
from torchproof.data.shards import Centre
from torchproof.data.stream import Stream

PICTURES = np.random.default_rng(0).integers(0, 256, (7, 4, 4, 3), dtype=np.uint8)


@dataclass(frozen=True)
class Pictures:
    decode: bool = True


class Labels:
    names = ("cat", "dog")


@dataclass(frozen=True)
class Rows:
    """What datasets.IterableDataset answers with, as far as it is asked."""

    rows: list[dict[str, Any]]
    num_shards: int = 2
    known: int | None = 7
    decoded: bool = True
    breaks: bool = False
    features: Any = None

    @property
    def info(self) -> Any:
        return SimpleNamespace(splits={"train": SimpleNamespace(num_examples=self.known)})

    def cast_column(self, name: str, feature: Pictures) -> Rows:
        assert name == "image" and not feature.decode
        return replace(self, decoded=False)

    def shard(self, num_shards: int, index: int) -> Rows:
        assert num_shards == 2
        return replace(self, rows=self.rows[:4] if index == 0 else self.rows[4:])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        assert not self.decoded, "pictures are decoded batch by batch alone"
        for row in self.rows:
            if self.breaks and row is self.rows[-1]:
                raise ConnectionError("no network")
            yield row


def png(array: np.ndarray[Any, Any]) -> bytes:
    out = io.BytesIO()
    Image.fromarray(array).save(out, "png")
    return out.getvalue()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[tuple[str, str | None], Rows]:
    """One set, whose last picture is a file of its own."""
    cells: list[dict[str, Any]] = [{"bytes": png(p), "path": None} for p in PICTURES]
    (tmp_path / "last.png").write_bytes(cells[-1]["bytes"])
    cells[-1] = {"bytes": None, "path": str(tmp_path / "last.png")}
    features = {"image": Pictures(), "label": Labels()}
    rows = [{"image": cell, "label": i % 2} for i, cell in enumerate(cells)]
    sets = {("pets", None): Rows(rows, features=features)}

    def load_dataset(path: str, config: str | None, split: str, streaming: bool) -> Rows:
        assert streaming and split == "train"
        return sets[path, config]

    module = SimpleNamespace(
        __version__="5.2.0", load_dataset=load_dataset, Image=Pictures, ClassLabel=Labels
    )
    monkeypatch.setitem(sys.modules, "datasets", module)
    return sets


def test_rows_come_in_parts_and_are_decoded_in_batches(hub: Any) -> None:
    source = hub_stream("pets")
    assert len(source) == 7 and source.parts == 2 and source.classes == ("cat", "dog")
    ((x, y),) = Stream(source).chunks(7)
    assert torch.equal(x, torch.from_numpy(PICTURES).permute(0, 3, 1, 2).float() / 255)
    assert y.tolist() == [i % 2 for i in range(7)]
    ids = [i for *_, ids, _ in Stream(source, 3).batches(4, 0, 1) for i in ids.tolist()]
    assert sorted(ids) == [0, 1, 2, 3, 2**32, 2**32 + 1, 2**32 + 2]
    small = Stream(hub_stream("pets", count=3, crop=Centre(2, 3), channels=1))
    assert next(small.chunks(9))[0].shape == (3, 1, 2, 2)


def test_one_shard_is_not_divided(hub: Any) -> None:
    hub["pets", None] = replace(hub["pets", None], num_shards=1)
    assert [len(x) for x, _ in Stream(hub_stream("pets")).chunks(5)] == [5, 2]


def test_what_cannot_be_meant_is_refused(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileError, match="hf:none, which could not be opened"):
        hub_stream("none")
    hub["odd", None] = replace(hub["pets", None], features={"image": Pictures()})
    with pytest.raises(InputError, match="0 columns of class labels"):
        hub_stream("odd")
    hub["bare", None] = replace(hub["pets", None], features=None)
    with pytest.raises(InputError, match="columns are unknown"):
        hub_stream("bare")
    hub["long", None] = replace(hub["pets", None], known=None)
    with pytest.raises(InputError, match="does not say its size"):
        hub_stream("long")
    assert len(hub_stream("long", count=5)) == 5
    hub["far", None] = replace(hub["pets", None], breaks=True)
    with pytest.raises(FileError, match=r"ended at row 2 of part 0 .*no network"):
        list(Stream(hub_stream("far")).chunks(9))
    rows = [{"image": {"bytes": None, "path": "gone.png"}, "label": 0}]
    hub["gone", None] = replace(hub["pets", None], rows=rows, num_shards=1, known=1)
    with pytest.raises(FileError, match=r"row 0 of part 0 at gone\.png"):
        list(Stream(hub_stream("gone")).chunks(1))
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtra, match=r"torchproof\[hf\]"):
        hub_stream("pets")
