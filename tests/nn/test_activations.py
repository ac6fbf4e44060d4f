"""The model options `activation` and `stem_stride`."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from torchproof.core.errors import InputError, UnknownName
from torchproof.nn import build
from torchproof.nn.activations import ACTIVATIONS, activation_of

SHAPE = {"channels": 1, "size": 16, "classes": 3, "seed": 0}
NETWORKS: dict[str, dict[str, Any]] = {
    "small-cnn": {"batch_norm": True},
    "preact-resnet18": {"width": 4, "final_norm": True},
    "resnet": {"blocks": (1, 2)},
    "wide-resnet": {"depth": 10, "width": 2},
}
FORMULAS = {
    "relu": lambda t: max(t, 0.0),
    "leaky-relu": lambda t: t if t > 0 else 0.1 * t,
    "silu": lambda t: t / (1 + math.exp(-t)),
    "gelu": lambda t: t * 0.5 * (1 + math.erf(t / math.sqrt(2))),
    "softplus": lambda t: math.log1p(math.exp(10 * t)) / 10,
}


@pytest.mark.parametrize("name", FORMULAS)
def test_activations_are_their_formulas(name: str) -> None:
    t = torch.linspace(-1.5, 1.5, 31, dtype=torch.float64)
    expected = torch.tensor([FORMULAS[name](float(v)) for v in t], dtype=torch.float64)
    assert torch.allclose(activation_of(name, 31)(t), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_activation_changes_the_function_not_the_weights(name: str) -> None:
    x = torch.rand(4, 1, 16, 16)
    plain = build(name, **SHAPE, **NETWORKS[name]).eval()
    for activation in FORMULAS:
        other = build(name, **SHAPE, **NETWORKS[name], activation=activation).eval()
        assert other.options["activation"] == activation
        for one, two in zip(plain.state_dict().items(), other.state_dict().items(), strict=True):
            assert one[0] == two[0] and torch.equal(one[1], two[1])
        assert torch.equal(other(x), plain(x)) == (activation == "relu")


@pytest.mark.parametrize("size", [8, 16, 28, 32])
@pytest.mark.parametrize("stride", [1, 2, 4])
def test_the_last_maps_of_a_preact_resnet_keep_their_size(size: int, stride: int) -> None:
    seen = []
    net = build("preact-resnet18", channels=1, size=size, classes=3, width=2, stem_stride=stride)
    net.net.conv1.register_forward_hook(lambda m, i, out: seen.append(out.shape[-1]))
    net.net.layer4.register_forward_hook(lambda m, i, out: seen.append(out.shape[-1]))
    net.eval()(torch.rand(2, 1, size, size))
    assert seen == [math.ceil(size / stride), math.ceil(size / 8)]
    assert net.net.conv1.stride == (stride, stride)


@pytest.mark.parametrize("size", [4, 7, 8, 9, 28, 33])
def test_a_small_cnn_on_patches(size: int) -> None:
    net = build("small-cnn", channels=2, size=size, classes=3, seed=0, stem_stride=4).eval()
    x = torch.rand(2, 2, size, size)
    assert net(x).shape == (2, 3)
    assert net.net.conv1.stride == net.net.conv1.kernel_size == (4, 4)
    patch = x[:, :, :4, :4].flatten(1) @ net.net.conv1.weight.flatten(1).T + net.net.conv1.bias
    assert torch.allclose(net.net.conv1(x)[:, :, 0, 0], patch, atol=1e-5)
    usual = build("small-cnn", channels=2, size=size, classes=3, seed=0)
    assert net.net.fc1.weight.shape == usual.net.fc1.weight.shape


def test_unknown_options_are_refused() -> None:
    for name in NETWORKS:
        with pytest.raises(UnknownName, match="silu"):
            build(name, **SHAPE, activation="sillu")
        with pytest.raises(InputError, match="stem_stride"):
            build(name, **SHAPE, stem_stride=3)


def test_a_text_that_makes_no_activation() -> None:
    with pytest.raises(InputError, match="an activation"):
        activation_of("3", 4)
    with pytest.raises(UnknownName, match="did you mean silu"):
        build("resnet", **SHAPE, activation="silo")
    assert activation_of("softplus(beta=5)", 1)(torch.zeros(1)) == math.log(2) / 5


def test_a_stage_shares_its_activation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ACTIVATIONS, "slope", lambda channels: torch.nn.PReLU(channels))
    for name, options in NETWORKS.items():
        if name == "small-cnn":
            continue
        made = build(name, **SHAPE, **options, activation="slope")
        slopes = [m for m in made.modules() if isinstance(m, torch.nn.PReLU)]
        widths = [len(m.weight) for m in slopes]
        assert len(set(widths)) == len(widths), (name, widths)
        made(torch.rand(2, 1, 16, 16)).sum().backward()
        assert all(m.weight.grad is not None for m in slopes), name
