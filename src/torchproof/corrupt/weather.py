"""Weather: snow, frost, fog and brightness (Hendrycks and Dietterich 2019).

Strengths are those of CIFAR-10-C, but for frost. Deviations: ice is drawn instead of photographed,
clouds are smooth octaves instead of diamonds and squares.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from torchproof.core import keys
from torchproof.corrupt.sampling import streaked, unit, zoomed
from torchproof.corrupt.textures import clouds, ice

# mean and spread of the flakes, their size, the threshold, streak and its fall, how grey it gets
_SNOW = (
    (0.10, 0.2, 1.00, 0.60, 8, 3, 0.95),
    (0.10, 0.2, 1.00, 0.50, 10, 4, 0.90),
    (0.15, 0.3, 1.75, 0.55, 10, 4, 0.90),
    (0.25, 0.3, 2.25, 0.60, 12, 6, 0.85),
    (0.30, 0.3, 1.25, 0.65, 14, 12, 0.80),
)
_FROST = ((1.0, 0.2), (0.95, 0.3), (0.9, 0.4), (0.8, 0.5), (0.7, 0.6))  # of image and of ice
_FOG = ((0.2, 3.0), (0.5, 3.0), (0.75, 2.5), (1.0, 2.0), (1.5, 1.75))  # thickness, smoothness
_LIGHT = (0.05, 0.10, 0.15, 0.20, 0.30)  # added to the value of hue, saturation and value
_ICE_COLOUR = (0.86, 0.94, 1.0)
_GREY = (0.299, 0.587, 0.114)  # of red, green and blue in brightness (ITU-R BT.601)


def snow(x: Tensor, strength: int, key: Tensor) -> Tensor:
    """Flakes that fall in streaks, over a scene that turns pale."""
    mean, spread, size, threshold, length, fall, kept = _SNOW[strength - 1]
    layer = mean + spread * keys.normal(key, 0, (1, *x.shape[-2:]), dtype=x.dtype)
    layer = zoomed(layer, size * unit(x))
    layer = torch.where(layer < threshold, 0.0, layer).clamp(0, 1)
    angle = (0.25 + 0.5 * keys.uniform(key, 1, (), dtype=x.dtype)) * math.pi
    layer = streaked(layer, length * unit(x), fall * unit(x), angle)
    pale = torch.maximum(x, _brightness(x) * 1.5 + 0.5)
    return kept * x + (1 - kept) * pale + layer + layer.rot90(2, (2, 3))


def _brightness(x: Tensor) -> Tensor:
    """(B, 1, H, W)"""
    if x.shape[1] == 1:
        return x
    weights = torch.tensor(_GREY, dtype=x.dtype, device=x.device)
    return (x * weights[:, None, None]).sum(1, keepdim=True)


def frost(x: Tensor, strength: int, key: Tensor) -> Tensor:
    """Ice on the lens, added to an image that it dims."""
    kept, added = _FROST[strength - 1]
    layer = ice(key, x)
    if x.shape[1] == 3:
        layer = layer * torch.tensor(_ICE_COLOUR, dtype=x.dtype, device=x.device)[:, None, None]
    return kept * x + added * layer


def fog(x: Tensor, strength: int, key: Tensor) -> Tensor:
    """Clouds in front of the scene, whose contrast falls."""
    thickness, decay = _FOG[strength - 1]
    brightest = x.amax((1, 2, 3), keepdim=True)
    return (x + thickness * clouds(key, x, decay)) * brightest / (brightest + thickness)


def brightness(x: Tensor, strength: int, key: Tensor) -> Tensor:
    """More light: the value of a colour rises, its hue and saturation stay."""
    value = x.amax(1, keepdim=True)
    raised = (value + _LIGHT[strength - 1]).clamp_max(1)
    return torch.where(value > 0, x * raised / value.clamp_min(1e-12), raised)
