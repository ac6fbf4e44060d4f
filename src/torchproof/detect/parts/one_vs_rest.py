"""Support vector machines with a Gaussian kernel, one class against the rest, all fitted from one
matrix of kernel values; and their answers to rows that they were not fitted on.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from torchproof.core.errors import InputError
from torchproof.detect.parts.rbf_svm import SupportVectors

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class OneVsRest:
    """Settings: the cost C, and gamma of exp(-gamma |a - b|^2): a number, or "scale" for 1 / (D
    var), D numbers a row and var the variance of all of them.

    A machine for each class, which is fitted by scikit-learn's SVC on kernel values: these are
    worked out once for all classes and folds. It is fitted to a tolerance of 1e-6, not 1e-3, so
    that two ways to the same machine agree. Raises InputError for numbers that cannot be meant.
    """

    cost: float = 1.0
    gamma: float | str = "scale"

    def __post_init__(self) -> None:
        right = self.gamma == "scale" if isinstance(self.gamma, str) else self.gamma > 0
        if not self.cost > 0 or not right:
            given = f"cost = {self.cost!r}, gamma = {self.gamma!r}"
            raise InputError(given, "a number > 0, and another or 'scale'", "write cost=1.0")

    def gamma_of(self, features: Tensor) -> float:
        """The number gamma for features (N, D) float64; 1 where they are all the same."""
        if not isinstance(self.gamma, str):
            return self.gamma
        variance = float(features.var(correction=0))
        return 1 / (features.shape[1] * variance) if variance > 0 else 1.0

    def fit(self, features: Tensor, y: Tensor) -> SupportVectors:
        """The machines of the classes of y (N,), in their order, fitted on features (N, D)."""
        known, gamma = features.detach().cpu().double(), self.gamma_of(features.double())
        weights, bias = self._machines(gaussian(known, gamma), y.cpu().numpy())
        used = torch.from_numpy(weights).ne(0).any(0)
        return SupportVectors(
            known[used], torch.from_numpy(weights)[:, used], torch.from_numpy(bias), gamma=gamma
        )

    def out_of_fold(self, features: Tensor, y: Tensor, folds: int, seed: int) -> Tensor:
        """(N, K) float64: what machines say of each row that were fitted on the other folds.

        The folds have equal shares of all classes; gamma is that of all rows. Raises InputError for
        a class with fewer rows than folds.
        """
        labels = y.cpu().numpy()
        classes, counts = np.unique(labels, return_counts=True)
        if counts.min() < folds:
            given = f"{counts.min()} images of class {classes[counts.argmin()]}"
            raise InputError(given, f"at least {folds}, one for each fold", "pass more images")
        selection = importlib.import_module("sklearn.model_selection")
        split = selection.StratifiedKFold(folds, shuffle=True, random_state=seed % 2**32)
        known = features.detach().cpu().double()
        near, found = gaussian(known, self.gamma_of(known)), np.zeros((len(labels), len(classes)))
        for rest, held in split.split(labels[:, None], labels):
            weights, bias = self._machines(near[np.ix_(rest, rest)], labels[rest])
            found[held] = near[np.ix_(held, rest)] @ weights.T + bias
        return torch.from_numpy(found)

    def _machines(self, near: Array, labels: Array) -> tuple[Array, Array]:
        """Weights (K, N) of the rows and biases (K,), from kernel values (N, N)."""
        svm = importlib.import_module("sklearn.svm")
        classes = np.unique(labels)
        weights, bias = np.zeros((len(classes), len(labels))), np.zeros(len(classes))
        for number, label in enumerate(classes):
            machine = svm.SVC(C=self.cost, kernel="precomputed", tol=1e-6).fit(
                near, labels == label
            )
            weights[number, machine.support_] = machine.dual_coef_[0]
            bias[number] = machine.intercept_[0]
        return weights, bias


def gaussian(features: Tensor, gamma: float) -> Array:
    """(N, N): exp(-gamma |a - b|^2) of all pairs of rows of features (N, D)."""
    lengths = features.square().sum(1)
    apart = (lengths[:, None] + lengths - 2 * features @ features.T).clamp_min(0)
    near: Array = torch.exp(-gamma * apart).numpy()
    return near
