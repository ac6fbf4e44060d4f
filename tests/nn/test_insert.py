"""Blocks behind layers of networks that know nothing of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from torchproof.core.errors import FileError, InputError, UnknownName
from torchproof.nn import Network, build, cards, fingerprint, insert
from torchproof.nn.blocks import BLOCKS

X = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))


class Scale(nn.Module):
    """Multiplies each channel by a number of its own, 1 at the start."""

    def __init__(self, channels: int, classes: int, by: float = 1.0) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.full((channels, 1, 1), by))
        self.classes = classes

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


@pytest.fixture(autouse=True)
def scale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BLOCKS, "Scale", Scale)


def net() -> Network:
    return build("small-cnn", channels=1, size=8, classes=5, seed=0)


def test_a_block_acts_on_what_the_layer_answers() -> None:
    plain = net()
    before = fingerprint(plain)
    twice = insert(plain, "net.conv2", "Scale(by=2.0)")
    assert fingerprint(plain) == before and not hasattr(plain.net.conv2, "block")
    block = twice.get_submodule("net.conv2.block")
    assert isinstance(block, Scale) and block.classes == 5 and block.factor.shape == (32, 1, 1)
    h = torch.relu(plain.net.conv1(plain.normalise(X)))
    h = torch.relu(2.0 * plain.net.conv2(h)).flatten(1)
    expected = plain.net.fc2(torch.relu(plain.net.fc1(h)))
    assert torch.allclose(twice(X), expected, atol=1e-6)


def test_the_copy_is_independent_and_keeps_modes() -> None:
    plain = net().train()
    plain.net.conv1.eval()
    other = insert(plain, ("net.conv1", "net.act2"), "Scale")
    assert other.training and not other.get_submodule("net.conv1.layer").training
    assert other.get_submodule("net.act2.block").training
    with torch.no_grad():
        other.get_submodule("net.conv1.layer").weight.zero_()
    assert plain.net.conv1.weight.abs().sum() > 0


def test_a_network_with_blocks_is_saved_and_loaded(tmp_path: Path) -> None:
    made = insert(net(), "net.conv1", "Scale(by=3.0)")
    made = insert(made, "net.act2", "Scale(by=0.5)")
    assert made.options["insert"] == {"conv1": "Scale(by=3.0)", "act2": "Scale(by=0.5)"}
    cards.save(made, tmp_path / "n")
    again, card = cards.load(tmp_path / "n")
    assert torch.equal(again(X), made.eval()(X)) and card["options"] == made.options
    same = build(made.name, **{**made.options, "seed": 0})
    assert same.state_dict().keys() == made.state_dict().keys()


def test_build_puts_blocks_where_it_is_told() -> None:
    blocks = {"layer1": "Scale(by=2.0)", "layer2.0": "Scale"}
    made = build("resnet", channels=1, size=8, classes=3, seed=0, insert=blocks)
    plain = build("resnet", channels=1, size=8, classes=3, seed=0)
    assert made.options["insert"] == blocks
    assert torch.equal(made.get_submodule("net.layer1.block").factor, torch.full((16, 1, 1), 2.0))
    assert not torch.equal(made.eval()(X), plain.eval()(X))
    names = {k.replace(".layer.", "."): v for k, v in made.state_dict().items() if "block" not in k}
    for name, value in plain.state_dict().items():
        assert torch.equal(names[name], value), name


def test_two_blocks_behind_one_layer_and_blocks_of_ones_own() -> None:
    once = insert(net(), "net.conv1", "Scale(by=2.0)")
    two = insert(once, "net.conv1", "Scale(by=0.5)")
    assert torch.allclose(two(X), net()(X), atol=1e-6)
    own = insert(net(), "net.conv1", lambda channels: nn.Conv2d(channels, channels, 1))
    assert isinstance(own.get_submodule("net.conv1.block"), nn.Conv2d)


def test_what_no_text_makes_cannot_be_rebuilt(tmp_path: Path) -> None:
    own = insert(net(), "net.conv1", lambda channels: nn.Identity())
    cards.save(own, tmp_path / "n")
    with pytest.raises(FileError, match=r"with a block behind net\.conv1.*build that model"):
        cards.load(tmp_path / "n")


def test_any_module_with_an_example() -> None:
    plain = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.LazyLinear(3))
    x = torch.rand(2, 2, 5, 5)
    plain(x)
    with pytest.raises(InputError, match="unknown input shape"):
        insert(plain, "0", "Scale")
    assert torch.equal(insert(plain, "0", "Scale", x)(x), plain(x))


@pytest.mark.parametrize(
    ("layer", "block", "error", "words"),
    [
        ("net.conv3", "Scale", UnknownName, r"net\.conv3.*net\.conv2"),
        ("", "Scale", UnknownName, "layer"),
        ("net.fc1", "Scale", InputError, r"net\.fc1.*maps"),
        ("net.conv1", "Scael", UnknownName, "did you mean Scale"),
        ("net.conv1", "Scale(buy=1)", InputError, "buy"),
        ("net.conv1", lambda c: nn.Conv2d(c, 2, 1), InputError, "same shape"),
        ("net.conv1", "3", InputError, "a block"),
    ],
)
def test_what_cannot_be_meant(layer: str, block: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        insert(net(), layer, block)
