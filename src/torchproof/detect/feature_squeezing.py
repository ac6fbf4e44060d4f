"""Feature squeezing (Xu, Evans and Qi 2018): an image whose class depends on what squeezing takes
away is suspicious.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from torchproof.attack.catalogue import pgd
from torchproof.attack.combine import Attack, EveryTarget
from torchproof.attack.starts import Uniform
from torchproof.core.errors import InputError
from torchproof.core.rejection import Rejecting
from torchproof.core.threats import AnyThreat
from torchproof.detect.detector import Clean, Detector, Fitted, generic_attacks
from torchproof.detect.parts.every_view import EveryView
from torchproof.detect.parts.feature_matching import matching_attack
from torchproof.detect.parts.squeezers import CIFAR10, IMAGENET, MNIST, Squeezer


@dataclass(frozen=True)
class FeatureSqueezing(Detector):
    """score = max over squeezers q of |p(x) - p(q(x))|_1, p the softmax of the logits: 0 to 2.

    squeezers: by default the paper's best sets: that of MNIST for one channel, of CIFAR-10 for
    more, of ImageNet for more and at least 64 pixels. Nothing is learnt: the fit only looks at the
    shape of the images. Raises InputError for what is no squeezer.
    """

    squeezers: tuple[Squeezer, ...] = ()
    name: ClassVar[str] = "feature-squeezing"
    source: ClassVar[str] = "Xu, Evans and Qi 2018"

    def __post_init__(self) -> None:
        if not all(isinstance(squeezer, Squeezer) for squeezer in self.squeezers):
            given = f"squeezers = {self.squeezers!r}"
            expected = "a tuple of BitDepth, Median, NonLocalMeans or your own Squeezer"
            raise InputError(given, expected, "write squeezers=(BitDepth(1), Median(2))")

    def fit(self, model: nn.Module, data: Clean, seed: int = 0) -> FittedFeatureSqueezing:
        return FittedFeatureSqueezing(model, self.squeezers or best_squeezers(data.x))


def best_squeezers(x: Tensor) -> tuple[Squeezer, ...]:
    """The paper's best set for images like x (N, C, H, W)."""
    if x.shape[1] == 1:
        return MNIST
    return IMAGENET if min(x.shape[2:]) >= 64 else CIFAR10


class FittedFeatureSqueezing(Fitted):
    """The score of `FeatureSqueezing`. Its gradient is exact but for bit depth, each step of which
    is a sigmoid backwards.
    """

    gradient: ClassVar[str] = "exact; sigmoids for the steps of the bit depth"

    def __init__(self, model: nn.Module, squeezers: Sequence[Squeezer]) -> None:
        super().__init__(model)
        self.squeezers = tuple(squeezers)

    def views(self, x: Tensor) -> Tensor:
        """(B, 1 + squeezers, K): the logits of the images and of the squeezed ones."""
        every = [x, *(squeeze(x) for squeeze in self.squeezers)]
        return torch.stack([self.model(view) for view in every], 1)

    def parts(self, x: Tensor) -> Tensor:
        """(B, squeezers): |p(x) - p(q(x))|_1 of each."""
        logits = self.views(x)
        p = logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(2)
        return (p[:, 1:] - p[:, :1]).abs().sum(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.parts(x).amax(1)

    def features(self, x: Tensor) -> Tensor:
        """(B, (1 + squeezers) K): all logits side by side."""
        return self.views(x).flatten(1)

    def attacks(self, threat: AnyThreat, rule: Rejecting, clean: Clean) -> Sequence[Attack]:
        """Besides the generic ones: all views towards one class at once, and the logits of all
        views towards those of a training image (He et al. 2017; Sharma and Chen 2018).
        """
        every = EveryView(1 + len(self.squeezers), rule)
        alike = matching_attack(self, threat, rule, clean)
        at_once = EveryTarget(pgd(threat, 100, start=Uniform(), objective=every), 3)
        return (*generic_attacks(threat, rule), at_once, *alike)
