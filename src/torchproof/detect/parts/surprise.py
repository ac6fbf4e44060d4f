"""Several detectors as one: how rare what each of them measures is among clean images, in bits."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from torchproof.core.errors import InputError

LEFT = 4  # images above the last knot, at least
NARROW = 1e-9  # no step between knots is narrower than this share of the largest part,
SMALL = 1e-6  # which counts as this at least: smaller differences are rounding


class Surprise(nn.Module):
    """Parts (B, P) to bits (B, P): -log2 of the share of clean images with a larger part.

    Piecewise linear through knots, the quantiles 1 - 2^-k (k = 0, 1, ...) of the clean parts, of
    which the last has some four images above it; beyond the knots the outer segments continue. So
    it is increasing without end in each part, and differentiable but at the knots. {bits > log2(1 /
    r)} is "above the threshold that drops the share r of clean images", part by part, and the
    largest of several bits is "any of several detectors, each at the same rate of false alarms".

    clean: parts (N, P) of clean images. Where many are equal, a knot lies a billionth of the
    largest part behind the one before. Raises InputError for N < 8 and for parts that are not
    finite.
    """

    knots: Tensor

    def __init__(self, clean: Tensor) -> None:
        super().__init__()
        if clean.ndim != 2 or len(clean) < 2 * LEFT or not bool(clean.isfinite().all()):
            given = f"measurements of shape {tuple(clean.shape)}"
            expected = f"finite ones (N, P) of at least {2 * LEFT} images"
            raise InputError(given, expected, "hold out more images")
        known = clean.detach().double()
        count = int(math.log2(len(known) / LEFT))
        levels = 1 - 0.5 ** torch.arange(count + 1, dtype=torch.float64, device=known.device)
        quantiles = torch.quantile(known, levels, dim=0)
        least = NARROW * known.abs().amax(0).clamp_min(SMALL)
        for k in range(1, count + 1):
            quantiles[k] = torch.maximum(quantiles[k], quantiles[k - 1] + least)
        self.register_buffer("knots", quantiles)
        self.training = False

    def forward(self, parts: Tensor) -> Tensor:
        knots = self.knots.double()
        along = (parts.double()[:, None] - knots[:-1]) / (knots[1:] - knots[:-1])
        low = torch.zeros_like(along[:1])
        low[:, 0] = -torch.inf
        high = torch.ones_like(along[:1])
        high[:, -1] = torch.inf
        return torch.minimum(torch.maximum(along, low), high).sum(1)
