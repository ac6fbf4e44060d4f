"""DUNET layer by layer, and a denoiser in front of a classifier that stays as it is."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.core.errors import InputError, UnknownName
from torchproof.nn import Network, Purified, build, cards, fingerprint, in_front_of, load_model
from torchproof.nn.unet import DUNET

SHAPE: dict[str, Any] = {"channels": 1, "size": 8, "classes": 3}


def unet(zero: bool = False, **options: Any) -> DUNET:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return DUNET(2, (4, 6, 5), (2, 1, 2), zero=zero, **options).double()


def classifier(**options: Any) -> Network:
    made = build("small-cnn", **SHAPE, widths=(3, 4), hidden=5, batch_norm=True, seed=1, **options)
    made.train()(torch.rand(16, 1, 8, 8))  # batch statistics of its own
    return made


@pytest.mark.parametrize("lateral", [True, False], ids=["dunet", "dae"])
@pytest.mark.parametrize("size", [8, 27, 37])
def test_a_fresh_denoiser_is_the_identity_at_every_size(size: int, lateral: bool) -> None:
    x = torch.rand(2, 2, size, size - 3, dtype=torch.float64)
    made = unet(zero=True, lateral=lateral)
    assert torch.equal(made.train()(x), x) and torch.equal(made.eval()(x), x)
    other = unet(lateral=lateral).eval()(x)
    assert other.shape == x.shape and not torch.equal(other, x)


def test_the_published_layers() -> None:
    """Counted from the specification: 3 x 3 without bias and batch norm, 1 x 1 at the end."""

    def convolutions(before: int, after: int, count: int) -> int:
        return (before + (count - 1) * after) * after * 9 + count * 2 * after

    down = [(3, 64, 2), (64, 128, 3), (128, 256, 3), (256, 256, 3), (256, 256, 3)]
    up = [(512, 256, 3), (512, 256, 3), (384, 128, 3), (192, 64, 2)]
    alone = [(256, 256, 3), (256, 256, 3), (256, 128, 3), (128, 64, 2)]
    with torch.device("meta"):
        dunet, dae = DUNET(3), DUNET(3, lateral=False)
    for made, decoder in ((dunet, up), (dae, alone)):
        expected = sum(convolutions(*shape) for shape in [*down, *decoder]) + 3 * 64
        assert sum(p.numel() for p in made.parameters()) == expected
    assert [b[0].stride for b in dunet.down] == [(1, 1), (2, 2), (2, 2), (2, 2), (2, 2)]


def by_hand(net: DUNET, x: Tensor, lateral: bool) -> Tensor:
    """The U-net of `unet`, convolution by convolution, from its weights alone, in eval mode."""

    def layers(block: nn.Sequential, maps: Tensor, stride: int) -> Tensor:
        for i in range(0, len(block), 3):
            maps = F.conv2d(maps, block[i].weight, stride=stride if i == 0 else 1, padding=1)
            shape, norm = (1, -1, 1, 1), block[i + 1]
            mean, var = norm.running_mean.reshape(shape), norm.running_var.reshape(shape)
            maps = (maps - mean) / (var + 1e-5).sqrt() * norm.weight.reshape(shape)
            maps = (maps + norm.bias.reshape(shape)).clamp_min(0)
        return maps

    first = layers(net.down[0], x, 1)
    second = layers(net.down[1], first, 2)
    maps = layers(net.down[2], second, 2)
    for block, left in zip(net.up, (second, first), strict=True):
        maps = F.interpolate(maps, left.shape[2:], mode="bilinear", align_corners=False)
        maps = layers(block, torch.cat([maps, left], 1) if lateral else maps, 1)
    return x + torch.einsum("oi,bihw->bohw", net.last.weight[:, :, 0, 0], maps)


@pytest.mark.parametrize("lateral", [True, False], ids=["dunet", "dae"])
def test_the_unet_by_hand(lateral: bool) -> None:
    net, x = unet(lateral=lateral), torch.rand(3, 2, 13, 10, dtype=torch.float64)
    net.train()(x)  # statistics
    torch.testing.assert_close(net.eval()(x), by_hand(net, x, lateral), rtol=1e-12, atol=1e-12)


def test_the_classifier_stays_as_it_is() -> None:
    inner = classifier()
    made = Purified(DUNET(1, (4, 6), zero=False), inner)
    before = copy.deepcopy(inner.state_dict())
    made.train()
    made.requires_grad_()
    assert made.training and made.denoiser.training
    assert not any(m.training for m in inner.modules())
    assert all(p.requires_grad for p in made.denoiser.parameters())
    assert not any(p.requires_grad for p in inner.parameters())
    x = torch.rand(6, 1, 8, 8, requires_grad=True)
    made(x).square().sum().backward()
    assert x.grad is not None and bool(x.grad.abs().sum() > 0)
    assert all(p.grad is None for p in inner.parameters())
    assert all(p.grad is not None for p in made.denoiser.parameters())
    assert all(torch.equal(v, before[k]) for k, v in inner.state_dict().items())
    made.requires_grad_(False)
    assert not any(p.requires_grad for p in made.parameters())


def test_denoised_images_are_not_clamped() -> None:
    made = Purified(nn.Hardtanh(-3, 3), nn.Flatten())
    x = torch.tensor([[[[-2.0, 2.5]]]])
    assert made(x).tolist() == [[-2.0, 2.5]]


def test_in_front_of_a_network_saved_loaded_and_exported(tmp_path: Path) -> None:
    inner = classifier(mean=0.3, std=0.5)
    made = in_front_of(inner, widths=(4, 6), counts=(1, 2), zero=False, seed=2)
    x = torch.rand(5, 1, 8, 8)
    made.train()(x)
    made.eval()
    assert made.name == "purified" and made.options["classifier"]["model"] == "small-cnn"
    fresh = in_front_of(inner, widths=(4, 6))
    assert torch.equal(fresh.eval()(x), inner.eval()(x))  # a fresh denoiser changes nothing
    state = made.net.classifier.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in inner.state_dict().items())
    assert made.net.classifier is not inner and all(p.requires_grad for p in inner.parameters())
    cards.save(made, tmp_path / "run")
    again = load_model(str(tmp_path / "run")).model
    assert fingerprint(again) == fingerprint(made) and torch.equal(again(x), made(x))
    assert isinstance(again, Network) and isinstance(again.net, Purified)
    assert not any(p.requires_grad for p in again.net.classifier.parameters())
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(made, (x,), dynamic_shapes=({0: batch},))
    torch.export.save(program, tmp_path / "model.pt2")
    other = load_model(str(tmp_path / "model.pt2")).model
    torch.testing.assert_close(other(x[:3]), made(x[:3]))


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: DUNET(1, (4, 6), (1,)), InputError, "one of each per resolution"),
        (lambda: DUNET(1, ()), InputError, "positive numbers"),
        (lambda: build("purified", **SHAPE), InputError, "--teacher RUN"),
        (lambda: in_front_of(nn.Flatten()), InputError, "Purified(denoiser, classifier)"),
        (lambda: in_front_of(classifier(), denoiser="unet"), UnknownName, "dunet"),
        (lambda: in_front_of(classifier(), size=12), InputError, "a classifier with"),
    ],
    ids=["counts", "no widths", "no classifier", "no network", "denoiser", "shape"],
)
def test_what_cannot_be_meant_is_refused(call: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert said in str(caught.value)
