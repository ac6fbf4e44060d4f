"""The two trainings of LADDER as methods for `fit`: of the decoder, and of the classifier on
boundary-guided examples (Zhou, Tsang and Yin 2022).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from torchproof.core.checks import check_images
from torchproof.core.errors import InputError
from torchproof.train.folder import digest
from torchproof.train.method import Batch, Method, answers, cross_entropy


@dataclass(frozen=True)
class Reconstruction(Method):
    """Trains a decoder to invert an encoder: mean over pixels of |G(z) - x|^power, z = e(x).

    latents: (N, D), one for each row of the data set, fixed; power: 2 (the paper's), or 1. Raises
    InputError for another power.
    """

    latents: Tensor = field(repr=False, compare=False)
    power: int = 2
    sha256: str = field(init=False)

    def __post_init__(self) -> None:
        if self.power not in (1, 2):
            raise InputError(f"power = {self.power!r}", "1 or 2", "2 is the paper's")
        object.__setattr__(self, "sha256", digest({"latents": self.latents}))

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        off = answers(model, self.latents[batch.ids].to(batch.x)) - batch.x
        return off.abs().pow(self.power).flatten(1).mean(1)


@dataclass(frozen=True)
class LADDER(Method):
    """Fine-tunes on boundary-guided examples: CE(f(x^), y) / 2 + CE(f(x), y) / 2, y the label of x.

    images: x^ (N, C, H, W), one for each row of the data set, made before (Boundary). They are
    looked up, so nothing is spent on an attack. Not robust in any Lp ball: x^ - x is unbounded.
    Raises InputError for images that are none.
    """

    images: Tensor = field(repr=False, compare=False)
    sha256: str = field(init=False)

    def __post_init__(self) -> None:
        check_images(self.images)
        object.__setattr__(self, "sha256", digest({"images": self.images}))

    @property
    def passes(self) -> int:
        return 2

    def prepare(self, model: nn.Module, batch: Batch) -> Batch:
        last = int(batch.ids.max())
        if last >= len(self.images) or self.images.shape[1:] != batch.x.shape[1:]:
            given = f"{tuple(self.images.shape)} boundary-guided images for row {last} of the data"
            remedy = "make them from the very data that is trained on"
            raise InputError(given, "one image for every row", remedy)
        return replace(batch, adv=self.images[batch.ids].to(batch.x))

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        return guided_loss(model, batch)


def guided_loss(model: nn.Module, batch: Batch) -> Tensor:
    """(B,) half the cross-entropy at x^ and half that at x."""
    assert batch.adv is not None, "losses are read from a prepared batch"
    guided, clean = (
        cross_entropy(answers(model, images), batch) for images in (batch.adv, batch.x)
    )
    return torch.add(guided, clean).mul(0.5)
