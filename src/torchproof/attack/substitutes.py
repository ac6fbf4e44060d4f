"""Smooth stand-ins for parts that have no useful gradient, for the backward pass of BPDA (Athalye,
Carlini and Wagner 2018).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.attack.untouched import forked, untouched
from torchproof.core import keys
from torchproof.core.errors import InputError


class Staircase(nn.Module):
    """Rounding to `levels` + 1 values in [0, 1] with slopes instead of jumps: a sum of sigmoids
    (ours). sharpness: of one step; the larger, the nearer to rounding.
    """

    def __init__(self, levels: int, sharpness: float = 4.0) -> None:
        super().__init__()
        if levels < 1 or not sharpness > 0:
            given = f"levels = {levels}, sharpness = {sharpness}"
            raise InputError(given, "levels >= 1 and sharpness > 0", "levels=1 is black and white")
        self.levels, self.sharpness = levels, sharpness

    def forward(self, x: Tensor) -> Tensor:
        edges = torch.arange(self.levels, dtype=x.dtype, device=x.device) + 0.5
        ups = torch.sigmoid(self.sharpness * 2 * (x[..., None] * self.levels - edges))
        return ups.sum(-1) / self.levels


class SoftMedian(nn.Module):
    """Median over `window` x `window` pixels as a mean with weights exp(-|pixel - median| /
    temperature): near the median in value, with gradient to every pixel close to it (ours).
    """

    def __init__(self, window: int = 3, temperature: float = 0.05) -> None:
        super().__init__()
        if window < 2 or not temperature > 0:
            given = f"window = {window}, temperature = {temperature}"
            raise InputError(given, "window >= 2 and temperature > 0", "3 and 0.05 are usual")
        self.window, self.temperature = window, temperature

    def forward(self, x: Tensor) -> Tensor:
        before = (self.window - 1) // 2
        pads = (before, self.window - 1 - before) * 2
        seen = F.pad(x, pads, mode="reflect").unfold(2, self.window, 1).unfold(3, self.window, 1)
        seen = seen.flatten(4)
        middle = seen.detach().median(-1, keepdim=True).values
        weights = torch.softmax(-(seen - middle).detach().abs() / self.temperature, -1)
        return (weights * seen).sum(-1)


class _Residual(nn.Module):
    """x + h(x): convolutions for maps (B, C, H, W), linear layers for vectors (B, D)."""

    def __init__(self, shape: torch.Size, width: int) -> None:
        super().__init__()

        def mixing(before: int, after: int) -> nn.Linear | nn.Conv2d:
            if len(shape) == 1:
                return nn.Linear(before, after)
            return nn.Conv2d(before, after, 3, padding=1)

        last = mixing(width, shape[0])
        assert last.bias is not None
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        first, middle = mixing(shape[0], width), mixing(width, width)
        self.change = nn.Sequential(first, nn.SiLU(), middle, nn.SiLU(), last)

    def forward(self, x: Tensor) -> Tensor:
        moved: Tensor = self.change(x)
        return x + moved


def learnt(
    layer: nn.Module,
    x: Tensor,
    *,
    steps: int = 300,
    width: int = 24,
    noise: float = 0.1,
    batch: int = 32,
    lr: float = 3e-3,
    seed: int = 0,
) -> nn.Module:
    """A small residual network that answers as `layer` does, least squares, on inputs x (N, ...) of
    the layer with normal noise of standard deviation `noise` added; it starts as the identity.

    The layer is left as it was, and so is the random state. Raises InputError for a layer whose
    answers have another shape than its inputs, or inputs that are neither maps nor vectors.
    """
    with untouched(layer), torch.no_grad():
        shape = layer(x[:1]).shape
    if shape != x[:1].shape or x.ndim not in (2, 4):
        given = f"a layer from {tuple(x.shape[1:])} to {tuple(shape[1:])}"
        raise InputError(given, "maps or vectors to their like", "write the substitute yourself")
    with forked(keys.seed_of(seed, "substitute"), x.device):
        made = _Residual(x.shape[1:], width).to(x)
    optimiser = torch.optim.Adam(made.parameters(), lr=lr)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    with untouched(layer, keys.seed_of(seed, "layer"), x.device), torch.enable_grad():
        for _ in range(steps):
            rows = torch.randint(len(x), (min(batch, len(x)),), device=x.device)
            near = x[rows] + noise * torch.randn_like(x[rows])
            with torch.no_grad():
                goal = layer(near)
            loss = F.mse_loss(made(near), goal)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            rate.step()
    return made.eval().requires_grad_(False)
