"""The protocol of the detectors: a recipe is fitted, what is fitted scores images.

A recipe (`Detector`) is a frozen dataclass of settings. Its `fit` reads the classifier and clean
training images, and adversarial ones if it is `supervised`; nothing else, and in particular nothing
of the images on which it is calibrated or tested. What comes out (`Fitted`) is a module that
scores images; `calibrate` finds its threshold on images that `fit` has not seen.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from torchproof.attack.catalogue import pgd
from torchproof.attack.combine import Attack, EveryTarget
from torchproof.attack.starts import Uniform
from torchproof.attack.untouched import home, untouched
from torchproof.core.checks import check_images
from torchproof.core.errors import InputError, ModelError
from torchproof.core.rejection import Heedless, Rejecting
from torchproof.core.threats import AnyThreat

BATCH = 128


@dataclass(frozen=True)
class Clean:
    """What a detector is fitted on: images x (N, C, H, W) in [0, 1], labels y (N,), and, for a
    supervised one, `adversarial` (N, C, H, W): what an attack made of the same images, row by row.

    Raises InputError for labels or adversarial images that do not fit the images.
    """

    x: Tensor
    y: Tensor
    adversarial: Tensor | None = None

    def __post_init__(self) -> None:
        check_images(self.x)
        if self.y.shape != self.x.shape[:1] or self.y.is_floating_point():
            given = f"labels of shape {tuple(self.y.shape)} and dtype {self.y.dtype}"
            raise InputError(given, f"one integer for each of {len(self.x)} images", "pass classes")
        if self.adversarial is not None:
            check_images(self.adversarial)
            if self.adversarial.shape != self.x.shape:
                given = f"adversarial images of shape {tuple(self.adversarial.shape)}"
                expected = f"{tuple(self.x.shape)}, row by row what was made of the clean ones"
                raise InputError(given, expected, "leave out the same rows of both")


class Fitted(nn.Module, ABC):
    """A detector that scores images beside its classifier.

    forward(x): images (B, C, H, W) in [0, 1] to suspicion (B,), higher = more suspicious. It is
    the exact score in value and differentiable in x: exactly, or, where the method is not, through
    the substitute that `gradient` names. A row's score does not depend on the rest of its batch,
    and randomness is the detector's own, fixed when it was fitted. The module is in eval mode; its
    numbers are buffers, so that it moves and is saved as modules are.
    """

    gradient: ClassVar[str] = "exact"

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.training = False  # not .eval(), which would reset frozen parts

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor: ...

    def features(self, x: Tensor) -> Tensor:
        """(B, D): what the score is worked out from, differentiable; for feature matching."""
        logits: Tensor = self.model(x)
        return logits

    def attacks(self, threat: AnyThreat, rule: Rejecting, clean: Clean) -> Sequence[Attack]:
        """The detector's own adaptive attacks, on a `Guarded` model: `generic_attacks`, and what
        is known to break this method. `clean` is what the adversary has: the training images.
        """
        return generic_attacks(threat, rule)

    @torch.no_grad()
    def score(self, x: Tensor, batch_size: int = BATCH) -> Tensor:
        """(N,) scores of images x (N, C, H, W), batch by batch, on the CPU, in float64.

        Raises InputError for images out of range, ModelError for a score that is NaN.
        """
        check_images(x)
        place = home(self)
        with untouched(self):
            found = [self(part.to(place)).double().cpu() for part in torch.split(x, batch_size)]
        scores = torch.cat(found)
        if bool(scores.isnan().any()):
            given = f"{type(self).__name__} with {int(scores.isnan().sum())} scores that are NaN"
            raise ModelError(given, "numbers", "check the classifier's answers to these images")
        return scores


class Detector(ABC):
    """The settings of a method. `source`: where it was published; `supervised`: does `fit` need
    adversarial images?
    """

    name: ClassVar[str]
    source: ClassVar[str]
    supervised: ClassVar[bool] = False

    @abstractmethod
    def fit(self, model: nn.Module, data: Clean, seed: int = 0) -> Fitted:
        """Raises InputError for too few images, for data without adversarial images where the
        method is supervised, and for layers that the model does not have.
        """

    def check(self, data: Clean) -> None:
        """Raises InputError where the method is supervised and there are no adversarial images."""
        if self.supervised and data.adversarial is None:
            given = f"{self.name} without adversarial images"
            remedy = "attack the training images and pass the result: Clean(x, y, adversarial)"
            raise InputError(given, "adversarial images to learn from", remedy)


class Guarded(nn.Module):
    """A classifier and a fitted detector as one model that may reject: images to `logits` (B, K),
    `reject` (B,) and `features` (B, D).
    """

    def __init__(self, fitted: Fitted, features: bool = False) -> None:
        super().__init__()
        self.fitted, self.with_features = fitted, features
        self.training = False

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        out = {"logits": self.fitted.model(x), "reject": self.fitted(x)}
        return {**out, "features": self.fitted.features(x)} if self.with_features else out


def generic_attacks(threat: AnyThreat, rule: Rejecting) -> tuple[Attack, ...]:
    """Misclassified and accepted at once by projected gradient from a random start, and towards
    the three likeliest classes by cross-entropy alone (Tramer et al. 2020).
    """
    both = pgd(threat, steps=100, start=Uniform(), objective=rule)
    across = pgd(threat, steps=100, start=Uniform(), objective=Heedless(rule))
    return both, EveryTarget(across, 3)
