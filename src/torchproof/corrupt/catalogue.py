"""The fifteen kinds of common corruption, each in five strengths, and `corrupt`, which applies one.

Strengths are those of CIFAR-10-C (Hendrycks and Dietterich 2019, the authors' code) where the files
of this package do not say otherwise, lengths in pixels growing with the image beyond 32 pixels a
side. Everywhere, randomness is keyed per image and alike for all strengths, and values are not
rounded to bytes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from torchproof.core import keys
from torchproof.core.checks import check_images
from torchproof.core.errors import InputError, unknown
from torchproof.corrupt import blur, digital, noise, weather

Corruption = Callable[[Tensor, int, Tensor], Tensor]
"""(x (B, C, H, W) in [0, 1], strength 1 to 5, key (B,)) -> x of the same shape, perhaps beyond
[0, 1].
"""

STRENGTHS = (1, 2, 3, 4, 5)
SMALLEST = 4  # pixels per side

CORRUPTIONS: dict[str, Corruption] = {
    made.__name__: made
    for made in (
        noise.gaussian_noise,
        noise.shot_noise,
        noise.impulse_noise,
        blur.defocus_blur,
        blur.glass_blur,
        blur.motion_blur,
        blur.zoom_blur,
        weather.snow,
        weather.frost,
        weather.fog,
        weather.brightness,
        digital.contrast,
        digital.elastic_transform,
        digital.pixelate,
        digital.jpeg_compression,
    )
}


def corrupt(
    x: Tensor, kind: str, strength: int, *, seed: int = 0, ids: Tensor | None = None
) -> Tensor:
    """Images x (B, C, H, W) in [0, 1], C 1 or 3, corrupted; the result has the same shape and type.

    What happens to an image depends on seed, kind and its id (by default its position) alone; the
    pattern is the same at every strength. Raises UnknownName for a kind that is not in CORRUPTIONS,
    InputError for other images or strengths.

    >>> corrupt(torch.full((2, 1, 8, 8), 0.5), "brightness", 5).mean()
    tensor(0.8000)
    """
    if kind not in CORRUPTIONS:
        raise unknown("corruption", kind, CORRUPTIONS)
    if strength not in STRENGTHS:
        remedy = "5 is the strongest"
        raise InputError(f"strength = {strength!r}", "one of 1, 2, 3, 4, 5", remedy)
    check_images(x)
    if x.shape[1] not in (1, 3) or min(x.shape[-2:]) < SMALLEST:
        given, expected = f"images of shape {tuple(x.shape)}", "grey or colour, 4 x 4 or larger"
        raise InputError(given, expected, "corruptions are about pictures")
    number = torch.arange(len(x), device=x.device) if ids is None else ids.to(x.device)
    if number.shape != (len(x),):
        given = f"ids of shape {tuple(number.shape)}"
        raise InputError(given, f"shape ({len(x)},)", "give one id per image")
    wide = x.detach().to(torch.promote_types(x.dtype, torch.float32))
    with torch.no_grad():
        made = CORRUPTIONS[kind](wide, strength, keys.mix(seed, number, kind))
    return made.clamp(0, 1).to(x.dtype)
