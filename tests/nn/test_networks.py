"""The networks: shapes, parameter counts, names, and weights that depend on the seed alone."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from torch import nn

from torchproof.core.errors import InputError, UnknownName
from torchproof.nn import MODELS, Network, Normalise, build, fingerprint, options_of

SMALL: dict[str, dict[str, Any]] = {
    "small-cnn": {},
    "lenet": {"widths": (3, 4), "hidden": 6, "padding": 2},
    "mlp": {"hidden": (16, 8)},
    "ode-cnn": {"width": 4},
    "odenet": {"width": 4, "h": 0.5, "readout": "flatten"},
    "tisode": {"width": 4, "h": 0.5, "solver": "midpoint"},
    "preact-resnet18": {"width": 4},
    "purified": {"widths": (4, 6), "zero": False, "classifier": {"model": "mlp", "options": {}}},
    "resnet": {"width": 4},
    "resnet18": {"width": 4},
    "resnet34": {"width": 4},
    "wide-resnet": {"depth": 10, "width": 1},
}


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def conv(before: int, after: int, kernel: int, norm: int) -> int:
    """Parameters of a convolution without bias and of a batch norm over `norm` channels."""
    return before * after * kernel * kernel + 2 * norm


def resnet_count(blocks: list[int], classes: int, preact: bool) -> int:
    """The closed formula, written from the papers' tables and not from the modules."""
    total, before = 3 * 64 * 9 + (0 if preact else 2 * 64), 64
    for stage, number in enumerate(blocks):
        after = 64 * 2**stage
        for _ in range(number):
            first = before if preact else after
            total += conv(before, after, 3, first) + conv(after, after, 3, after)
            if before != after:
                total += conv(before, after, 1, 0 if preact else after)
            before = after
    return total + before * classes + classes


def wide_count(depth: int, width: int, classes: int) -> int:
    total, before = 3 * 16 * 9, 16
    for after in (16 * width, 32 * width, 64 * width):
        for _ in range((depth - 4) // 6):
            total += conv(before, after, 3, before) + conv(after, after, 3, after)
            total += 0 if before == after else before * after
            before = after
    return total + 2 * before + before * classes + classes


def on_meta(name: str, **options: Any) -> nn.Module:
    """A large network without its memory: `build` would fill 36 million weights."""
    with torch.device("meta"):
        return MODELS[name](channels=3, size=32, classes=10, **options)


def test_counts_are_the_published_ones() -> None:
    assert count(on_meta("resnet18")) == 11_173_962 == resnet_count([2, 2, 2, 2], 10, False)
    assert count(on_meta("resnet34")) == 21_282_122 == resnet_count([3, 4, 6, 3], 10, False)
    assert count(on_meta("preact-resnet18")) == 11_171_146 == resnet_count([2, 2, 2, 2], 10, True)
    assert count(on_meta("preact-resnet18", final_norm=True)) == 11_171_146 + 2 * 512
    assert count(on_meta("wide-resnet")) == 36_479_194 == wide_count(28, 10, 10)
    assert count(on_meta("wide-resnet", depth=34)) == 46_160_474 == wide_count(34, 10, 10)
    assert count(on_meta("wide-resnet", depth=16, width=4)) == wide_count(16, 4, 10)


def test_counts_of_the_small_networks() -> None:
    for size in (8, 9, 28, 33):
        features = 32 * (size // 4) ** 2
        expected = (2 * 16 * 16 + 16) + (16 * 32 * 16 + 32) + (features + 1) * 100 + 101 * 7
        assert count(build("small-cnn", channels=2, size=size, classes=7)) == expected
    wide = build("small-cnn", channels=1, size=8, classes=3, widths=(4, 6), hidden=5)
    assert count(wide) == (16 * 4 + 4) + (4 * 6 * 16 + 6) + (6 * 4 * 5 + 5) + (5 * 3 + 3)
    lenet = build("lenet", channels=1, size=28, classes=10)
    assert count(lenet) == 431_080 == (25 + 1) * 20 + (20 * 25 + 1) * 50 + 801 * 500 + 501 * 10
    mlp = build("mlp", channels=3, size=5, classes=4, hidden=(11, 6))
    assert count(mlp) == 76 * 11 + 12 * 6 + 7 * 4
    assert count(build("mlp", channels=1, size=5, classes=4, hidden=())) == 26 * 4


@pytest.mark.parametrize("name", sorted(MODELS))
@pytest.mark.parametrize(("channels", "size", "classes"), [(1, 8, 10), (3, 15, 2), (2, 32, 5)])
def test_shapes_and_gradients(name: str, channels: int, size: int, classes: int) -> None:
    shape = {"channels": channels, "size": size, "classes": classes}
    model = build(name, **shape, seed=0, **SMALL[name]).eval()
    x = torch.rand(3, channels, size, size, requires_grad=True)
    logits = model(x)
    assert logits.shape == (3, classes) and logits.dtype == torch.float32
    (gradient,) = torch.autograd.grad(logits.sum(), x)
    assert gradient.abs().sum() > 0
    with torch.no_grad():  # each image is answered for itself
        torch.testing.assert_close(model(x[1:2]), logits[1:2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_the_seed_alone_decides(name: str) -> None:
    def make(seed: int | None) -> Network:
        return build(name, channels=1, size=8, classes=3, seed=seed, **SMALL[name])

    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = fingerprint(make(3))
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(7)
    assert fingerprint(make(3)) == first
    assert fingerprint(make(4)) != first
    torch.random.set_rng_state(before)
    unseeded = fingerprint(make(None))
    assert not torch.equal(torch.random.get_rng_state(), before)
    torch.random.set_rng_state(before)
    assert fingerprint(make(None)) == unseeded


@pytest.mark.parametrize("name", sorted(MODELS))
def test_options_rebuild_the_network(name: str) -> None:
    made = build(name, channels=3, size=8, classes=3, mean=(0.5, 0.4, 0.3), **SMALL[name])
    again = build(made.name, **json.loads(json.dumps(made.options)))
    assert again.options == made.options
    shapes = {k: v.shape for k, v in made.state_dict().items()}
    assert {k: v.shape for k, v in again.state_dict().items()} == shapes
    assert options_of(name).keys() <= made.options.keys()  # the defaults are written out


def test_names_follow_the_conventions() -> None:
    trades = build("wide-resnet", channels=3, size=8, classes=10, depth=10, width=2).net
    names = set(trades.state_dict())
    wanted = {"conv1.weight", "block1.layer.0.bn1.weight", "block1.layer.0.convShortcut.weight"}
    assert wanted | {"block3.layer.0.conv2.weight", "bn1.running_mean", "fc.bias"} <= names
    cifar = set(build("resnet18", channels=3, size=8, classes=10, width=2).net.state_dict())
    assert {"bn1.weight", "layer2.0.shortcut.0.weight", "layer2.0.shortcut.1.bias"} <= cifar
    assert {"layer4.1.bn2.running_var", "linear.weight"} <= cifar
    preact = build("preact-resnet18", channels=3, size=8, classes=10, width=2, final_norm=True)
    wanted = {"bn.weight", "layer2.0.shortcut.0.weight", "layer1.0.bn1.weight", "linear.bias"}
    assert wanted <= set(preact.net.state_dict())


def test_a_basic_block_by_hand() -> None:
    """One residual block against its formula, with batch norm in eval mode."""
    model = build("resnet18", channels=1, size=8, classes=2, width=2, seed=1).eval().double()
    block, x = model.net.layer2[0], torch.rand(2, 2, 8, 8, dtype=torch.float64)
    shrink = 1 / math.sqrt(1 + 1e-5)  # a fresh batch norm

    def conv2d(x: torch.Tensor, layer: nn.Conv2d, stride: int, pad: int) -> torch.Tensor:
        columns = nn.functional.unfold(x, layer.kernel_size, padding=pad, stride=stride)
        side = math.isqrt(columns.shape[-1])
        return (layer.weight.flatten(1) @ columns).reshape(len(x), -1, side, side)

    inner = (shrink * conv2d(x, block.conv1, 2, 1)).clamp(min=0)
    outer = shrink * conv2d(inner, block.conv2, 1, 1)
    expected = (outer + shrink * conv2d(x, block.shortcut[0], 2, 0)).clamp(min=0)
    torch.testing.assert_close(block(x), expected)


def test_normalise() -> None:
    x = torch.rand(4, 3, 5, 5)
    mean, std = (0.1, 0.2, 0.3), (0.5, 1.0, 2.0)
    expected = torch.stack([(x[:, c] - mean[c]) / std[c] for c in range(3)], 1)
    torch.testing.assert_close(Normalise(mean, std)(x), expected)
    assert torch.equal(Normalise()(x), x)
    assert Normalise(0.5, 0.25).double()(x.double()).dtype == torch.float64
    model = build("mlp", channels=3, size=5, classes=2, mean=mean, std=std, seed=0)
    assert torch.equal(model(x), model.net(model.normalise(x)))


def test_dropout_and_batch_norm_are_options() -> None:
    model = build("small-cnn", channels=1, size=8, classes=3, dropout=0.5, batch_norm=True, seed=0)
    x = torch.rand(16, 1, 8, 8)
    assert not torch.equal(model.train()(x), model(x))
    assert torch.equal(model.eval()(x), model(x))
    assert model.net.bn1.num_batches_tracked == 2


@pytest.mark.parametrize(
    ("name", "options", "word"),
    [
        ("small-cnn", {"size": 3}, "at least 4"),
        ("small-cnn", {"size": 8.0}, "positive integer"),
        ("small-cnn", {"channels": 0}, "channels"),
        ("small-cnn", {"classes": True}, "classes"),
        ("small-cnn", {"widths": (1, 2, 3)}, "two convolutions"),
        ("small-cnn", {"width": 3}, "spelling"),
        ("small-cnn", {"dropout": 1.5}, "a network"),
        ("small-cnn", {"hidden": nn.ReLU()}, "JSON"),
        ("lenet", {"size": 15}, "padding=2"),
        ("lenet", {"widths": (1, 2, 3)}, "two convolutions"),
        ("mlp", {"hidden": 5}, "a network"),
        ("mlp", {"mean": float("nan")}, "finite"),
        ("mlp", {"mean": (0.1, 0.2)}, "one per channel"),
        ("mlp", {"std": 0.0}, "positive"),
        ("mlp", {"std": ()}, "finite"),
        ("wide-resnet", {"depth": 30}, "6 n \\+ 4"),
    ],
)
def test_what_makes_no_network_is_refused(name: str, options: dict[str, Any], word: str) -> None:
    shape = {"channels": 3, "size": 8, "classes": 10}
    with pytest.raises(InputError, match=word):
        build(name, **{**shape, **options})


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(UnknownName, match="resnet18"):
        build("resnet-18", channels=3, size=8, classes=10)
    with pytest.raises(UnknownName, match="small-cnn"):
        options_of("smal-cnn")


def test_fingerprint_sees_every_bit_and_nothing_else() -> None:
    model = build("small-cnn", channels=1, size=8, classes=3, batch_norm=True, seed=0)
    first = fingerprint(model)
    assert len(first) == 64 and fingerprint(model.train()) == first
    model.net.fc1.weight.data = model.net.fc1.weight.data.t().contiguous().t()  # another layout
    assert fingerprint(model) == first
    model.net.bn1.num_batches_tracked += 1
    changed = fingerprint(model)
    assert changed != first
    model.net.fc2.bias.data[0] = torch.nextafter(model.net.fc2.bias.data[0], torch.tensor(9.0))
    assert fingerprint(model) != changed
    assert fingerprint(model.double()) != fingerprint(model.float())
    assert len(fingerprint(model.to(torch.bfloat16))) == 64
