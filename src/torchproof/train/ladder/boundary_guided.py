"""LADDER's four stages in one run of the common loop (Zhou, Tsang and Yin 2022)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from torchproof.attack.untouched import home, precision
from torchproof.core.errors import InputError, unknown
from torchproof.train.ladder.examples import Fixed
from torchproof.train.ladder.latent import Layer, encode
from torchproof.train.ladder.method import guided_loss
from torchproof.train.ladder.stages import DECODING, LABEL, Course, boundary_examples
from torchproof.train.method import Batch, Method, answers, cross_entropy
from torchproof.train.rows import Rows

Maker = Callable[[int, int, int, int], nn.Module]
"""(latent, channels, size, seed) -> an untrained decoder of latents (B, latent) to images."""
UNITS = ("raw", "distance", "share")


@dataclass(frozen=True)
class BoundaryGuided(Method):
    """LADDER: CE(f(x^), y) / 2 + CE(f(x), y) / 2, x^ decoded from latents moved towards another
    class (Zhou, Tsang and Yin 2022). Not robust in any Lp ball: x^ - x is unbounded.

    Train a network that is trained already. Before the first epoch a decoder is trained and SVMs
    are fitted for the network as it is, and one x^ is made of every training image (`LADDER` takes
    images that are there). layer, side: where the network is cut (`Layer`); decoder: makes an
    untrained one; eps: how far latents are moved, unit: "raw", the authors', "distance" in latent
    space, or "share" of the mean length of a latent; decoding: epochs, batch size and rate of the
    decoder's Adam. What comes before the first epoch is not in the record, and is done again where
    a run is killed before its first checkpoint. Raises InputError for numbers that cannot be meant
    and UnknownName; in the first epoch UnknownName for a layer that is not there.
    """

    layer: str
    decoder: Maker = field(repr=False, compare=False)
    side: Literal["output", "input"] = "output"
    eps: float = 0.5
    unit: str = "raw"
    decoding: tuple[int, int, float] = (DECODING.epochs, DECODING.batch_size, DECODING.lr)
    images: Tensor = field(
        default_factory=lambda: torch.zeros(0), init=False, repr=False, compare=False
    )

    memory: ClassVar[tuple[str, ...]] = ("images",)
    label: ClassVar[str] = LABEL

    def __post_init__(self) -> None:
        Layer(self.layer, self.side)
        if self.unit not in UNITS:
            raise unknown("unit", self.unit, UNITS)
        if not 0 <= self.eps < math.inf or not callable(self.decoder):
            given = f"eps = {self.eps!r}, decoder = {self.decoder!r}"
            raise InputError(given, "a number >= 0 and a maker of decoders", "try eps=0.5")
        if len(self.decoding) != 3 or min(self.decoding) <= 0:
            remedy = "write decoding=(1000, 256, 1e-3)"
            raise InputError(f"decoding = {self.decoding!r}", "epochs, batch size, rate", remedy)

    @property
    def passes(self) -> int:
        return 2

    def begin(self, model: nn.Module, data: Rows, progress: float) -> None:
        if progress > 0:
            return
        x, y = data.tensors(home(model), precision(model))
        seed = int(torch.randint(2**31, ()))  # the loop has keyed the generator by run and epoch
        cut = Layer(self.layer, self.side)
        latents = encode(model, cut, x[: 1 if self.unit != "share" else None])
        decoder = self.decoder(latents.shape[1], x.shape[1], x.shape[2], seed)
        length = float(latents.norm(dim=1).mean()) if self.unit == "share" else 1.0
        epochs, size, rate = self.decoding
        course = Course(
            cut,
            distance=Fixed(self.eps * length),
            unit="raw" if self.unit == "raw" else "distance",
            decoding=DECODING.model_copy(update={"epochs": epochs, "batch_size": size, "lr": rate}),
            seed=seed,
        )
        _, found = boundary_examples(model, (x, y), decoder.to(x.device, x.dtype), course)
        made = torch.zeros(len(data.x), *x.shape[1:], dtype=found.images.dtype)
        made[data.index] = found.images.cpu()
        object.__setattr__(self, "images", made)

    def prepare(self, model: nn.Module, batch: Batch) -> Batch:
        if not len(self.images):
            return batch
        return replace(batch, adv=self.images[batch.ids].to(batch.x))

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        if batch.adv is None:  # no epoch has begun
            return cross_entropy(answers(model, batch.x), batch)
        return guided_loss(model, batch)
