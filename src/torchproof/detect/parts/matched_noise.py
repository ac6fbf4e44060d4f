"""Noise as long as an attack's perturbations: the harmless images that a detector must not flag."""

from __future__ import annotations

import torch
from torch import Tensor

from torchproof.core.keys import mix, normal

HALVINGS = 40


def matched_noise(x: Tensor, adversarial: Tensor, seed: int = 0) -> Tensor:
    """(N, C, H, W) images x with normal noise, kept in [0, 1]; row by row as far from x in L2 as
    the adversarial images are (Feinman et al. 2017, who match the mean).

    The noise is scaled so that the length is right after clipping, which on dark images takes half
    of the noise away. Where noise cannot reach so far, as far as it can. A row's noise depends on
    the seed and its number alone.
    """
    rows = torch.arange(len(x))
    noise = normal(mix(seed, "matched noise", rows), 0, tuple(x.shape[1:])).to(x)
    goal = (adversarial - x).flatten(1).norm(dim=1)
    low, high = torch.zeros_like(goal), torch.full_like(goal, 1e3)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        far = (_moved(x, noise, middle) - x).flatten(1).norm(dim=1) >= goal
        low, high = torch.where(far, low, middle), torch.where(far, middle, high)
    return _moved(x, noise, low)


def _moved(x: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    return (x + sigma.reshape(-1, 1, 1, 1) * noise).clamp(0, 1)
