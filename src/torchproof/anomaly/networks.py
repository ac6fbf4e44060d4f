"""Autoencoders, dense as in Beggel et al. 2019 or convolutional, and the critic of latents."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from torchproof.core.errors import InputError
from torchproof.core.keys import seed_of
from torchproof.nn.decoder import Decoder

Kind = Literal["dense", "conv"]


class Autoencoder(nn.Module):
    """x (B, C, H, W) in [0, 1] to latents z (B, latent) and back."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def encode(self, x: Tensor) -> Tensor:
        z: Tensor = self.encoder(x)
        return z

    def forward(self, x: Tensor) -> Tensor:
        images: Tensor = self.decoder(self.encode(x))
        return images


@dataclass(frozen=True)
class Architecture:
    """dense: two hidden layers of `width` units either side, linear latents, a sigmoid at the end
    (Beggel et al. 2019: width 1000, latent 32, for the adversarial one latent 2 and batch norm
    after each layer of the encoder). conv: two convolutions of stride 2 (width and 2 width
    channels), the decoder of `torchproof.nn.decoder`; square images only. Ours.

    Outputs lie in [0, 1], so a squared error is at most 1 per pixel and a negative weight cannot
    make the loss diverge.
    """

    kind: Kind = "dense"
    latent: int = 32
    width: int = 1000
    batch_norm: bool = False

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            expected = " or ".join(get_args(Kind))
            raise InputError(f"an autoencoder {self.kind!r}", expected, "choose one of the two")
        if min(self.latent, self.width) < 1:
            remedy = "raise them"
            raise InputError(f"latent {self.latent}, width {self.width}", "at least 1", remedy)

    def build(self, shape: tuple[int, int, int], seed: int) -> Autoencoder:
        """For images (C, H, W), in fresh weights keyed by `seed`, on the CPU."""
        make = _dense if self.kind == "dense" else _conv
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed_of(seed, "autoencoder"))
            return make(self, shape)

    def critic(self, seed: int) -> nn.Module:
        """Latents (B, latent) to logits (B,): is this drawn from the prior? Two layers of
        `width`.
        """
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed_of(seed, "critic"))
            layers = [*_hidden(self.latent, self.width, False), nn.Linear(self.width, 1)]
            return nn.Sequential(*layers, nn.Flatten(0))


def _dense(how: Architecture, shape: tuple[int, int, int]) -> Autoencoder:
    pixels = math.prod(shape)
    encoder = [nn.Flatten(), *_hidden(pixels, how.width, how.batch_norm)]
    decoder = [*_hidden(how.latent, how.width, False), nn.Linear(how.width, pixels), nn.Sigmoid()]
    return Autoencoder(
        nn.Sequential(*encoder, nn.Linear(how.width, how.latent)),
        nn.Sequential(*decoder, nn.Unflatten(1, shape)),
    )


def _hidden(inputs: int, width: int, batch_norm: bool) -> list[nn.Module]:
    """Two layers of `width` units with ReLU."""
    layers: list[nn.Module] = []
    for before in (inputs, width):
        layers.append(nn.Linear(before, width))
        layers += [nn.BatchNorm1d(width)] * batch_norm
        layers.append(nn.ReLU())
    return layers


def _conv(how: Architecture, shape: tuple[int, int, int]) -> Autoencoder:
    channels, size, other = shape
    if size != other or size < 4:
        remedy = "crop or resize the images, or use a dense autoencoder"
        raise InputError(f"images of {size} x {other} pixels", "squares of 4 or more", remedy)
    layers: list[nn.Module] = []
    for before, after in ((channels, how.width), (how.width, 2 * how.width)):
        layers.append(nn.Conv2d(before, after, 3, stride=2, padding=1))
        layers += [nn.BatchNorm2d(after)] * how.batch_norm
        layers.append(nn.ReLU())
    side = (size + 3) // 4  # each convolution rounds up
    last = nn.Linear(2 * how.width * side**2, how.latent)
    decoder = Decoder(how.latent, channels, size, (2 * how.width, how.width, how.width))
    return Autoencoder(nn.Sequential(*layers, nn.Flatten(), last), decoder)
