"""Detectors with the face of scikit-learn's outlier detection: numpy arrays in, +1 and -1 out.

`Outliers(OfDetector(LID(), model)).fit(x, y).predict(x_new)`; it stands in pipelines and searches
of scikit-learn as its own estimators do. As there, scores are higher for what is normal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from torchproof.attack.combine import Attack
from torchproof.attack.run import Run
from torchproof.attack.untouched import home, untouched
from torchproof.core import keys
from torchproof.core.errors import InputError
from torchproof.detect.calibrate import Threshold, calibrate
from torchproof.detect.detector import Clean, Detector

Array = npt.NDArray[Any]
Scorer = Callable[[Tensor], Tensor]
"""Images (N, C, H, W) to suspicion (N,), higher = more suspicious."""
Recipe = Callable[[Tensor, Tensor | None, int], Scorer]
"""What is fitted to images (N, C, H, W), labels (N,) or None, and a seed."""


@dataclass(frozen=True)
class OfDetector:
    """The recipe of a detector beside its classifier. Without labels the classifier's answers stand
    for them; attack: what a supervised detector learns from, made of the images it is fitted to.
    """

    detector: Detector
    model: nn.Module
    attack: Attack | None = None

    def __call__(self, x: Tensor, y: Tensor | None, seed: int) -> Scorer:
        place = home(self.model)
        x = x.to(place)
        labels = self._answers(x) if y is None else y.to(place)
        adversarial = None
        if self.attack is not None:
            found = self.attack(self.model, x, labels, run=Run(seed, torch.arange(len(x))))
            if not isinstance(found.value, Tensor):
                remedy = "choose one on the images themselves"
                raise InputError("an attack on weights or regions", "images", remedy)
            adversarial = (x + found.value.to(x)).clamp(0, 1)
        return self.detector.fit(self.model, Clean(x, labels, adversarial), seed).score

    def _answers(self, x: Tensor) -> Tensor:
        with untouched(self.model), torch.no_grad():
            return torch.cat([self.model(part).argmax(1) for part in torch.split(x, 256)])


class Outliers(OutlierMixin, BaseEstimator):  # type: ignore[misc]
    """An outlier detector of scikit-learn's kind around a recipe.

    recipe: `OfDetector`, or any function (x, y, seed) -> images to suspicion, such as
    `lambda x, y, seed: fit_baseline("lof", x, seed=seed).suspicion`; fpr: the rate of false alarms
    that is promised (see `calibrate`); held: the share of the images kept apart for the threshold;
    shape: (C, H, W) where the rows of X are flat.

    After `fit`: scorer_, threshold_ (a `Threshold`), offset_ (scores below it are outliers).
    """

    def __init__(
        self, recipe: Recipe, fpr: float = 0.05, held: float = 0.3, seed: int = 0,
        shape: tuple[int, int, int] | None = None,
    ) -> None:  # fmt: skip
        self.recipe, self.fpr, self.held, self.seed, self.shape = recipe, fpr, held, seed, shape

    def fit(self, X: Array, y: Array | None = None) -> Outliers:
        """Fits to images X (N, C, H, W), (N, H, W) or, with `shape`, (N, D), numbers in [0, 1], and
        labels y (N,) where the recipe reads them. Raises InputError for arrays that cannot be
        meant, a share outside (0, 1) and too few images for the rate.
        """
        x = self._images(X)
        count = round(len(x) * self.held)
        if not 0 < count < len(x):
            given = f"held = {self.held} of {len(x)} images"
            raise InputError(given, "some images on either side", "bring more, or hold out others")
        order = keys.permutation(len(x), self.seed, "calibrate")
        held, own = order[:count], order[count:]
        self.scorer_ = self.recipe(x[own], self._labels(y, len(x), own), self.seed)
        self.threshold_: Threshold = calibrate(self.scorer_(x[held]).cpu(), self.fpr)
        self.offset_ = -self.threshold_.value
        return self

    def score_samples(self, X: Array) -> Array:
        """(N,) float64, higher for what is more normal: minus the suspicion."""
        check_is_fitted(self, "threshold_")
        found: Array = -self.scorer_(self._images(X)).detach().cpu().double().numpy()
        return found

    def decision_function(self, X: Array) -> Array:
        """(N,) float64, below 0 for outliers."""
        found: Array = self.score_samples(X) - self.offset_
        return found

    def predict(self, X: Array) -> Array:
        """(N,) int64: +1 for what is accepted, -1 for what is flagged."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def _images(self, given: Array) -> Tensor:
        array = np.asarray(given)
        if self.shape is not None and array.ndim == 2:
            if array.shape[1] != np.prod(self.shape):
                told = f"rows of {array.shape[1]} numbers"
                raise InputError(told, f"images {self.shape}", "name their shape")
            array = array.reshape(-1, *self.shape)
        array = array[:, None] if array.ndim == 3 else array
        good = array.ndim == 4 and np.issubdtype(array.dtype, np.floating) and len(array)
        if not good or not (array.min() >= 0 and array.max() <= 1):  # NaN fails as well
            told = f"an array of {array.dtype}, shape {np.shape(given)}"
            expected = "images (N, C, H, W), floats in [0, 1]"
            raise InputError(told, expected, "divide bytes by 255; name the shape of flat rows")
        return torch.from_numpy(np.ascontiguousarray(array, np.float32))

    def _labels(self, y: Array | None, count: int, rows: Tensor) -> Tensor | None:
        if y is None:
            return None
        array = np.asarray(y)
        if array.shape != (count,) or not np.issubdtype(array.dtype, np.integer):
            told = f"labels of {array.dtype}, shape {array.shape}"
            raise InputError(told, f"one whole number for each of {count} images", "pass classes")
        return torch.from_numpy(array.astype(np.int64))[rows]
