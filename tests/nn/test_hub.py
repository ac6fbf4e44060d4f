"""Models named `hub:` and `timm:`, with stand-ins for the packages: no network is needed."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from torchproof.core.errors import FileError, InputError, MissingExtra, ModelError, UnknownName
from torchproof.nn import build, cards, load_model
from torchproof.nn.normalise import Normalise


class EntryNotFoundError(Exception):
    """Of that name in huggingface_hub."""


class RemoteEntryNotFoundError(EntryNotFoundError):
    pass


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, list[Any]]:
    """The folder whose files the hub has under me/net, and what it was asked for."""
    asked: list[Any] = []
    folder = tmp_path / "hub"

    def hf_hub_download(repository: str, file: str, revision: str | None = None) -> str:
        asked.append((repository, file, revision))
        if repository != "me/net":
            raise ConnectionError("no such repository")
        if not (folder / file).exists():
            raise RemoteEntryNotFoundError(file)
        return str(folder / file)

    module = SimpleNamespace(hf_hub_download=hf_hub_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    cards.save(build("small-cnn", channels=1, size=8, classes=10, seed=1), folder, {"note": "mine"})
    return folder, asked


def test_weights_and_card_are_fetched_and_nothing_else(
    hub: tuple[Path, list[Any]], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        loaded = load_model("hub:me/net")
    assert hub[1] == [("me/net", "model.safetensors", None), ("me/net", "model.json", None)]
    assert [r.getMessage() for r in caplog.records] == [
        "fetching model.safetensors of huggingface.co/me/net",
        "fetching model.json of huggingface.co/me/net",
    ]
    own = load_model(str(hub[0]))
    assert loaded.name == "small-cnn (hub:me/net)" and loaded.card["note"] == "mine"
    assert loaded.sha256 == own.sha256 and not loaded.model.training
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(loaded.model(x), own.model(x))


def test_a_revision_can_be_pinned(hub: tuple[Path, list[Any]]) -> None:
    load_model("hub:me/net@refs/pr/1")
    assert {revision for *_, revision in hub[1]} == {"refs/pr/1"}


def test_the_card_may_be_called_config_or_be_in_the_weights(hub: tuple[Path, list[Any]]) -> None:
    (hub[0] / "model.json").rename(hub[0] / "config.json")
    assert load_model("hub:me/net").card["note"] == "mine"
    (hub[0] / "config.json").write_text(json.dumps({"architectures": ["BertModel"]}))
    assert load_model("hub:me/net").card["note"] == "mine"  # that in the header of the weights


def test_what_is_no_model_of_the_hub_is_refused(
    hub: tuple[Path, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("net", "me/net/more", "https://huggingface.co/me/net", ""):
        with pytest.raises(InputError, match="the name of a model of the hub"):
            load_model(f"hub:{name}")
    assert hub[1] == []
    with pytest.raises(FileError, match="no such repository"):
        load_model("hub:me/other")
    (hub[0] / "model.safetensors").write_bytes(b"pickle")
    with pytest.raises(FileError, match="safetensors"):
        load_model("hub:me/net")
    (hub[0] / "model.safetensors").unlink()
    with pytest.raises(FileError, match=r"model\.safetensors of hub:me/net"):
        load_model("hub:me/net")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtra, match=r"torchproof\[hf\]"):
        load_model("hub:me/net")


class Tiny(nn.Module):
    """A network with the configuration that timm gives its own."""

    pretrained_cfg = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.5)}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.last(x.mean((2, 3)))
        return out


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch) -> None:
    def create_model(name: str, pretrained: bool) -> nn.Module:
        assert pretrained
        if name.endswith(".gone"):
            raise RuntimeError("no weights of that tag")
        return Tiny().train()

    module = SimpleNamespace(
        create_model=create_model,
        is_model=lambda name: name == "resnet18",
        list_models=lambda: ["resnet18", "vit_tiny"],
    )
    monkeypatch.setitem(sys.modules, "timm", module)


def test_networks_of_timm_take_images_in_0_to_1(timm: None) -> None:
    before = torch.random.get_rng_state()
    loaded = load_model("timm:resnet18.a1_in1k")
    assert torch.equal(torch.random.get_rng_state(), before)
    assert loaded.name == "timm:resnet18.a1_in1k" and not loaded.model.training
    norm, network = loaded.model
    assert isinstance(norm, Normalise) and isinstance(network, Tiny)
    x = torch.rand(2, 3, 4, 4)
    mean, std = (torch.tensor(Tiny.pretrained_cfg[k]).view(1, 3, 1, 1) for k in ("mean", "std"))
    assert torch.allclose(loaded.model(x), network((x - mean) / std))


def test_what_timm_does_not_have_is_refused(timm: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownName, match="resnet18"):
        load_model("timm:resnet81")
    with pytest.raises(InputError, match="the name of a network of timm"):
        load_model("timm:hf-hub:me/net")
    with pytest.raises(ModelError, match="no weights of that tag"):
        load_model("timm:resnet18.gone")
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingExtra, match=r"torchproof\[timm\]"):
        load_model("timm:resnet18")


def test_a_timm_that_does_not_load_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it does beside a torchvision of another torch: with a RuntimeError."""
    text = "raise RuntimeError('operator torchvision::nms does not exist')"
    (tmp_path / "timm.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    with pytest.raises(MissingExtra, match="torchvision::nms"):
        load_model("timm:resnet18")
