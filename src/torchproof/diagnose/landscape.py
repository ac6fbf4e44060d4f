"""The robust loss along random directions in the space of the weights (Wu, Xia and Wang 2020,
section 3).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.attack.ascend import Run
from torchproof.attack.combine import Attack
from torchproof.attack.pgd import PGD
from torchproof.attack.untouched import untouched
from torchproof.core import keys
from torchproof.core.checks import check
from torchproof.core.errors import InputError
from torchproof.core.objectives import CrossEntropy
from torchproof.core.sites import Weights
from torchproof.core.threats import Threat

RADII = tuple(i / 10 for i in range(-10, 11))


@dataclass(frozen=True)
class Landscape:
    """g(a), the robust loss at w + a d, in nats: losses[j][i] along direction j at radii[i]."""

    radii: tuple[float, ...]
    losses: tuple[tuple[float, ...], ...]

    @property
    def mean(self) -> tuple[float, ...]:
        """Over the directions."""
        return tuple(statistics.fmean(column) for column in zip(*self.losses, strict=True))

    @property
    def rise(self) -> float:
        """The mean of g over the radii, minus the smallest value of the mean curve: 0 is flat."""
        return statistics.fmean(self.mean) - min(self.mean)


def weight_landscape(
    model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *,
    radii: Sequence[float] = RADII, directions: int = 3, steps: int = 10, seed: int = 0,
    slots: int = 256,
) -> Landscape:  # fmt: skip
    """The mean cross-entropy of images attacked by PGD, made anew for every moved network.

    x (N, C, H, W) in [0, 1], y (N,); directions: drawn normally and rescaled filter by filter to
    the length of the filters (Li et al. 2018), zero for biases and normalisation layers; radii: in
    units of those lengths; steps: of PGD, of eps / 4, without a random start's keys changing
    between networks. The weights come back bit for bit. Images are attacked again at every radius,
    since those of the unmoved network make the curve look flat. Raises InputError for radii that
    are not finite and counts below 1.
    """
    check(x, y)
    if not radii or not all(math.isfinite(a) for a in radii):
        raise InputError(f"radii {radii!r}", "finite numbers", "write (-1, -0.5, 0, 0.5, 1)")
    if directions < 1:
        raise InputError(f"directions = {directions}", "a whole number >= 1", "3 are usual")
    attack = Attack(threat, CrossEntropy(), PGD(steps, 0.25))
    run = Run(keys.seed_of(seed, "landscape"), slots=slots, patience=math.inf, last=True)
    losses = []
    for number in range(directions):
        direction = random_direction(model, keys.seed_of(seed, "direction", number))
        line = []
        for a in radii:
            with moved(model, direction, a):
                line.append(_robust_loss(model, x, y, attack, run))
        losses.append(tuple(line))
    return Landscape(tuple(float(a) for a in radii), tuple(losses))


def _robust_loss(model: nn.Module, x: Tensor, y: Tensor, attack: Attack, run: Run) -> float:
    value = attack(model, x, y, run=run).value
    assert isinstance(value, Tensor)  # a Threat perturbs images
    total = 0.0
    with torch.no_grad(), untouched(model, run.seed, x.device):
        for start in range(0, len(x), run.slots):
            rows = slice(start, start + run.slots)
            logits = model(x[rows] + value[rows].to(x))
            total += float(F.cross_entropy(logits, y[rows], reduction="sum"))
    return total / len(x)


def random_direction(model: nn.Module, seed: int) -> dict[str, Tensor]:
    """Parameter name -> normal direction with the length of the weight, filter by filter (first
    index).
    """
    out = {}
    chosen = Weights().origin(model, torch.empty(0))
    for number, (name, leaf) in enumerate(sorted(chosen.items())):
        weight = leaf[0]
        key = keys.mix(seed, torch.tensor([number]))
        drawn = keys.normal(key, 0, tuple(weight.shape), dtype=torch.float64)[0].to(weight)
        scale = weight.flatten(1).norm(dim=1) / drawn.flatten(1).norm(dim=1)
        out[name] = drawn * scale.reshape(-1, *[1] * (weight.dim() - 1))
    return out


@contextmanager
def moved(model: nn.Module, direction: Mapping[str, Tensor], a: float) -> Iterator[None]:
    """w + a d inside the block, w bit for bit afterwards."""
    parameters = dict(model.named_parameters())
    saved = {name: parameters[name].detach().clone() for name in direction}
    with torch.no_grad():
        for name, d in direction.items():
            parameters[name].add_(d, alpha=a)
    try:
        yield
    finally:
        with torch.no_grad():
            for name, value in saved.items():
                parameters[name].copy_(value)
