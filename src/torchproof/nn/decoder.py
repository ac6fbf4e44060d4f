"""Decoders: from a latent vector back to an image, for LADDER (Zhou, Tsang and Yin 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from torchproof.core.errors import InputError


def decoder_for(latent: int, channels: int, size: int, seed: int) -> nn.Module:
    """The authors' decoder for images of 28 pixels, `Decoder` for others, in fresh weights keyed by
    `seed`, on the CPU.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return LeNetDecoder(latent, channels) if size == 28 else Decoder(latent, channels, size)


class LeNetDecoder(nn.Module):
    """The authors' decoder for MNIST: z (B, latent) to images (B, channels, 28, 28) in [0, 1].

    A linear layer to 50 maps of 4 x 4, two transposed convolutions of kernel 2 (strides 4 and 3),
    and convolutions of kernels 3, 4 and 5 that bring them back to 28 x 28.
    """

    def __init__(self, latent: int, channels: int = 1) -> None:
        super().__init__()
        self.start = nn.Linear(latent, 50 * 16, bias=False)
        self.rest = nn.Sequential(
            nn.ReLU(),
            nn.ConvTranspose2d(50, 50, 2, stride=4),
            nn.Conv2d(50, 20, 3),
            nn.ReLU(),
            nn.ConvTranspose2d(20, 20, 2, stride=3),
            nn.Conv2d(20, 20, 4),
            nn.Conv2d(20, channels, 5),
            nn.Sigmoid(),
        )

    def forward(self, z: Tensor) -> Tensor:
        images: Tensor = self.rest(self.start(z).unflatten(1, (50, 4, 4)))
        return images


class Decoder(nn.Module):
    """A decoder for any size: z (B, latent) to images (B, channels, size, size) in [0, 1].

    A linear layer, then for each of `widths` but the first a transposed convolution of stride 2
    with batch norm, ReLU and a 3 x 3 convolution, as the authors' for CIFAR-10; cut to `size`.
    Deviation: a sigmoid at the end, so that images stay in [0, 1] (theirs: tanh on [-1, 1]).
    Raises InputError for sizes that no doubling of at least one pixel reaches.
    """

    def __init__(
        self, latent: int, channels: int, size: int, widths: Sequence[int] = (64, 32, 16)
    ) -> None:
        super().__init__()
        doublings = len(widths) - 1
        if doublings < 0 or size < 2**doublings:
            remedy = "give fewer widths"
            raise InputError(f"widths={widths!r} for images of {size} pixels", "one number more "
                             "than the image can be halved", remedy)  # fmt: skip
        side = -(-size // 2**doublings)
        self.side, self.size = side, size
        self.start = nn.Linear(latent, widths[0] * side**2)
        layers: list[nn.Module] = [nn.BatchNorm2d(widths[0]), nn.ReLU()]
        for before, after in pairwise(widths):
            layers += [
                nn.ConvTranspose2d(before, after, 2, stride=2), nn.BatchNorm2d(after), nn.ReLU(),
                nn.Conv2d(after, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(),
            ]  # fmt: skip
        layers += [nn.Conv2d(widths[-1], channels, 1), nn.Sigmoid()]
        self.rest = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        maps = self.start(z).unflatten(1, (-1, self.side, self.side))
        images: Tensor = self.rest(maps)[:, :, : self.size, : self.size]
        return images
