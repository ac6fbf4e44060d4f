"""Logistic regression on a few numbers of an image, fitted by scikit-learn, evaluated in torch."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from torchproof.attack.untouched import home
from torchproof.core.errors import InputError
from torchproof.detect.detector import BATCH, Fitted
from torchproof.detect.parts.matched_noise import matched_noise
from torchproof.detect.parts.scaling import Scaling

FOLDS = 5
Scale = Callable[[Tensor], Scaling]


class Logistic(nn.Module):
    """Features (B, D) to the logit (B,) of being adversarial, in float64: w . scaling(x) + b.

    The logit, not its sigmoid, in which what is clearly adversarial would all be 1.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, scaling: Scaling) -> None:
        super().__init__()
        self.register_buffer("weight", weight.detach().double().clone())
        self.register_buffer("bias", bias.detach().double().clone())
        self.scaling = scaling
        self.training = False

    @classmethod
    def fit(cls, negative: Sequence[Tensor], positive: Tensor, scale: Scale) -> Logistic:
        """By LogisticRegressionCV: L2, its ten strengths, the best accuracy in five folds.

        negative, positive: features (N, D) of versions of the same N images, row by row: all
        versions of an image are in one fold. scale: `Scaling.z_score` or `Scaling.min_max`, fitted
        on all that is passed. Raises InputError for fewer than ten images or for NaN.
        """
        from sklearn.linear_model import LogisticRegressionCV
        from sklearn.model_selection import GroupKFold

        parts = [*negative, positive]
        if len(positive) < 2 * FOLDS or len({part.shape for part in parts}) != 1:
            given = f"features of shapes {[tuple(part.shape) for part in parts]}"
            expected = f"{2 * FOLDS} images at least, as many rows of each version"
            raise InputError(given, expected, "fit on more images")
        features = torch.cat(parts).detach().cpu()
        scaling = scale(features)
        labels = np.repeat([0] * len(negative) + [1], len(positive))
        images = np.tile(np.arange(len(positive)), len(parts))
        folds = list(GroupKFold(FOLDS).split(features, labels, images))
        machine = LogisticRegressionCV(Cs=10, cv=folds, scoring="accuracy", max_iter=1000)
        with warnings.catch_warnings():
            # on arguments that versions from 1.4 on do not have in common
            warnings.simplefilter("ignore", FutureWarning)
            machine.fit(scaling(features).numpy(), labels)
        weight, bias = (torch.as_tensor(n) for n in (machine.coef_[0], machine.intercept_[0]))
        return cls(weight, bias, scaling)

    def forward(self, x: Tensor) -> Tensor:
        scaled: Tensor = self.scaling(x)
        return scaled @ self.weight.double() + self.bias.double()


class Weighed(Fitted):
    """A detector that weighs `evidence`, a few numbers of an image, by logistic regression. Its
    score is the logit of being adversarial rather than clean or noisy.
    """

    logistic: Logistic

    @abstractmethod
    def evidence(self, x: Tensor) -> Tensor:
        """(B, F): the numbers, differentiable in x."""

    def forward(self, x: Tensor) -> Tensor:
        weighed: Tensor = self.logistic(self.evidence(x))
        return weighed

    @torch.no_grad()
    def learn(self, x: Tensor, adversarial: Tensor, scale: Scale, seed: int) -> None:
        """Fits `logistic`. Negative: images x (N, C, H, W), and the same with noise of the length
        of the attack's perturbations; positive: what the attack made of them.
        """
        place = home(self)
        parts = []
        for images in (x, matched_noise(x, adversarial, seed), adversarial):
            found = [self.evidence(part.to(place)).cpu() for part in torch.split(images, BATCH)]
            parts.append(torch.cat(found))
        self.logistic = Logistic.fit(parts[:2], parts[2], scale).to(place)
