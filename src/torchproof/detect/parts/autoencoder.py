"""The denoising autoencoders of MagNet (Meng and Chen 2017), and their training."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.attack.untouched import forked
from torchproof.core.errors import InputError, unknown
from torchproof.core.keys import seed_of

CHANNELS = 3  # of every hidden layer, whatever the images have
STRUCTURES: dict[str, tuple[bool, ...]] = {"I": (True, False), "II": (False,)}
"""Convolutions before the middle; True: an average pooling that halves the size comes after."""


class Autoencoder(nn.Module):
    """Images x (B, C, H, W) to images of the same shape, in (0, 1).

    Structure I: conv-pool-conv, mirrored as conv-upsample-conv; structure II: conv, mirrored as
    conv; then a convolution to C channels. Convolutions are 3 x 3 with 3 channels, each followed by
    a sigmoid. Weights start as in Keras (Glorot and Bengio 2010, uniform; biases 0). Upsampling
    repeats pixels, and drops the last of an odd size. Raises UnknownName for another structure.
    """

    def __init__(self, channels: int, structure: str = "I") -> None:
        super().__init__()
        if structure not in STRUCTURES:
            raise unknown("structure", str(structure), STRUCTURES)
        self.pools = STRUCTURES[structure]
        widths = [channels, *[CHANNELS] * len(self.pools)]
        self.down = nn.ModuleList(nn.Conv2d(a, CHANNELS, 3, padding=1) for a in widths[:-1])
        self.up = nn.ModuleList(nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1) for _ in self.pools)
        self.out = nn.Conv2d(CHANNELS, channels, 3, padding=1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        sizes = []
        for layer, pool in zip(self.down, self.pools, strict=True):
            x = layer(x).sigmoid()
            sizes.append(x.shape[2:])
            x = F.avg_pool2d(x, 2, ceil_mode=True) if pool else x
        for layer, pool, size in zip(self.up, self.pools[::-1], sizes[::-1], strict=True):
            if pool:
                height, width = size
                x = x.repeat_interleave(2, 2)[:, :, :height].repeat_interleave(2, 3)[..., :width]
            x = layer(x).sigmoid()
        out: Tensor = self.out(x).sigmoid()
        return out


@dataclass(frozen=True)
class Denoising:
    """How an autoencoder learns: mean squared error between a clean image and the reconstruction of
    one with noise (normal, standard deviation `noise`, clipped to [0, 1]), by Adam.

    Deviations: the noise is drawn anew in every epoch, not once; the published penalty of 1e-9 on
    the squares of activations, some thousandth of the loss, is left out. Raises InputError for
    numbers that cannot be meant.
    """

    noise: float = 0.1
    epochs: int = 100
    batch: int = 256
    lr: float = 1e-3

    def __post_init__(self) -> None:
        if self.noise < 0 or self.epochs < 1 or self.batch < 1 or not self.lr > 0:
            given = f"noise, epochs, batch, lr = {(self.noise, self.epochs, self.batch, self.lr)}"
            expected = "noise >= 0, epochs and batch >= 1, lr > 0"
            raise InputError(given, expected, "see the defaults")

    def __call__(self, x: Tensor, structure: str, seed: int, device: torch.device) -> Autoencoder:
        """One trained on images x (N, C, H, W), frozen, in eval mode, of their dtype but float32 at
        least; the same for the same seed.
        """
        dtype = torch.promote_types(x.dtype, torch.float32)
        with forked(seed_of(seed, "weights"), device):
            made = Autoencoder(x.shape[1], structure).to(device, dtype)
        drawn = torch.Generator().manual_seed(seed_of(seed, "noise and order"))
        optimiser = torch.optim.Adam(made.parameters(), lr=self.lr)
        for _ in range(self.epochs):
            for rows in torch.split(torch.randperm(len(x), generator=drawn), self.batch):
                clean = x[rows.to(x.device)].to(device, dtype)
                noise = torch.randn(clean.shape, generator=drawn, dtype=dtype).to(device)
                loss = F.mse_loss(made((clean + self.noise * noise).clamp(0, 1)), clean)
                optimiser.zero_grad()
                torch.autograd.backward(loss)
                optimiser.step()
        for parameter in made.parameters():
            parameter.grad = None
        return made.requires_grad_(False).eval()
