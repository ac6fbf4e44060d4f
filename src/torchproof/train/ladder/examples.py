"""LADDER's boundary-guided examples: a latent moved towards the boundary with another class, and
decoded (Zhou, Tsang and Yin 2022).

    z' = e(x) + eps * beta(z) * d,   x^ = G(z') rounded to 8 bits,   d = w towards t, -w towards s

There is no bound on x^ - x: at eps = 0 it is the decoder's error.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from torchproof.attack.untouched import home, precision, untouched
from torchproof.core import keys
from torchproof.core.errors import InputError, unknown
from torchproof.train.ladder.latent import Layer, encode
from torchproof.train.ladder.svm import Pairs

# What eps multiplies: the paper's step, whose length differs from pair to pair, or one of length 1,
# so that eps is the distance |z' - z| (ours).
UNITS: dict[str, Callable[[Tensor], Tensor]] = {
    "raw": lambda step: step,
    "distance": lambda step: step / step.norm(dim=1, keepdim=True).clamp(min=1e-12),
}


@dataclass(frozen=True)
class Examples:
    """images (N, C, H, W) in [0, 1]; target (N,) classes; eps (N,); flipped (N,): f(x^) != f(x);
    score (N,) of the pair's SVM at z', above 0 on the target's side.
    """

    images: Tensor
    target: Tensor
    eps: Tensor
    flipped: Tensor
    score: Tensor


@dataclass(frozen=True)
class Boundary:
    """What makes examples: the network f, cut at `layer`, its decoder G and the SVMs. All stay as
    they are. Raises UnknownName for a unit that is none.
    """

    model: nn.Module
    layer: Layer
    decoder: nn.Module
    pairs: Pairs
    unit: str = "raw"

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise unknown("unit", self.unit, UNITS)

    def targets(self, y: Tensor, seed: int, ids: Tensor | None = None) -> Tensor:
        """(N,) for each label another class, all equally likely, keyed by seed and id."""
        classes = torch.tensor(self.pairs.classes)
        place = torch.searchsorted(classes, y.cpu()).clamp_(max=len(classes) - 1)
        strange = (classes[place] != y.cpu()).nonzero()[:, 0].tolist()
        if strange:
            given = f"labels without SVMs at positions {strange[:5]}"
            raise InputError(given, f"labels among {classes.tolist()}", "train SVMs for them")
        number = torch.arange(len(y)) if ids is None else ids
        drawn = keys.integers(keys.mix(seed, "target", number), 0, len(classes) - 1, ())
        return classes[drawn + (drawn >= place)]

    @torch.no_grad()
    def steps(self, z: Tensor, y: Tensor, target: Tensor) -> Tensor:
        """(N, D) beta(z) * d in the unit chosen: what eps is multiplied with."""
        out = torch.zeros_like(z)
        for row, rows, towards in self._groups(y, target):
            svm = self.pairs.svm(row)
            out[rows] = towards[:, None] * svm.beta(z[rows]) * svm.w
        return UNITS[self.unit](out)

    @torch.no_grad()
    def scores(self, z: Tensor, y: Tensor, target: Tensor) -> Tensor:
        """(N,) of the pairs' SVMs, above 0 on the target's side."""
        out = z.new_zeros(len(z))
        for row, rows, towards in self._groups(y, target):
            out[rows] = towards * self.pairs.svm(row).score(z[rows])
        return out

    def _groups(self, y: Tensor, target: Tensor) -> list[tuple[int, Tensor, Tensor]]:
        """For each pair its examples, and whether they go to t (1) or to s (-1)."""
        y = y.cpu()
        low, high = torch.minimum(y, target), torch.maximum(y, target)
        found = []
        for row, (s, t) in enumerate(self.pairs.pairs.tolist()):
            rows = ((low == s) & (high == t)).nonzero()[:, 0]
            if len(rows):
                found.append((row, rows, torch.where(target[rows] == t, 1.0, -1.0)))
        return found

    @torch.no_grad()
    def decoded(self, z: Tensor, slots: int = 256) -> Tensor:
        """G(z) on the CPU, each pixel a multiple of 1/255."""
        with untouched(self.decoder):
            place = home(self.decoder), precision(self.decoder)
            parts = [self.decoder(part.to(*place)).cpu() for part in torch.split(z, slots)]
        return torch.cat(parts).clamp_(0, 1).mul_(255).round_().div_(255)

    @torch.no_grad()
    def classes_of(self, x: Tensor, slots: int = 256) -> Tensor:
        """f's decisions (N,), on the CPU."""
        with untouched(self.model):
            place = home(self.model), precision(self.model)
            parts = [self.model(part.to(*place)).argmax(1).cpu() for part in torch.split(x, slots)]
        return torch.cat(parts)


class Distance(ABC):
    """How far examples are moved."""

    @property
    @abstractmethod
    def grid(self) -> tuple[float, ...]:
        """The eps tried, in turn, until f's decision changes; the last one stays."""

    def __call__(
        self, boundary: Boundary, x: Tensor, y: Tensor, seed: int = 0, ids: Tensor | None = None
    ) -> Examples:
        """Examples for images x (N, C, H, W) with labels y (N,); ids key the targets."""
        target, z = boundary.targets(y, seed, ids), encode(boundary.model, boundary.layer, x)
        step, before = boundary.steps(z, y, target), boundary.classes_of(x)
        eps, images = torch.zeros(len(x)), torch.zeros_like(x, device="cpu")
        flipped, rows = torch.zeros(len(x), dtype=torch.bool), torch.arange(len(x))
        for length in self.grid:
            moved = boundary.decoded(z[rows] + length * step[rows])
            eps[rows], images[rows] = length, moved.to(images)
            flipped[rows] = boundary.classes_of(moved) != before[rows]
            rows = (~flipped).nonzero()[:, 0]
            if not len(rows):
                break
        score = boundary.scores(z + eps[:, None].to(z) * step, y, target)
        return Examples(images, target, eps, flipped, score)


@dataclass(frozen=True)
class Fixed(Distance):
    """The same eps for all."""

    eps: float = 0.5

    @property
    def grid(self) -> tuple[float, ...]:
        return (self.eps,)


@dataclass(frozen=True)
class Growing(Distance):
    """eps grows until the decision changes: by `step`, ten times that from 1 on, up to `most` (not
    included) and for `tries` tries. Raises InputError.
    """

    start: float = 0.5
    step: float = 0.1
    most: float = 26.0
    tries: int = 10

    def __post_init__(self) -> None:
        if self.step <= 0 or self.tries < 1 or self.start >= self.most:
            given = f"start {self.start}, step {self.step}, most {self.most}, tries {self.tries}"
            raise InputError(given, "start < most, step > 0, tries >= 1", "correct the value")

    @property
    def grid(self) -> tuple[float, ...]:
        """The eps in turn, each rounded to the step's decimals against drift."""
        found = [self.start]
        while len(found) < self.tries:
            after = round(found[-1] + self.step * (10 if found[-1] >= 1 else 1), 9)
            if after >= self.most:
                break
            found.append(after)
        return tuple(found)
