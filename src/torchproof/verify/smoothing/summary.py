"""What certificates of many images say together: average radius, certified accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchproof.core.errors import InputError
from torchproof.core.metrics import clopper_pearson
from torchproof.verify.smoothing.certify import ABSTAIN
from torchproof.verify.smoothing.probabilities import Floats

USUAL: dict[str, tuple[float, ...]] = {
    "l2": (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 3.5),
    "l1": (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0),
    "l0": (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0),
}
"""Radii that tables of the literature have, by norm."""


@dataclass(frozen=True, eq=False)
class Log:
    """Certificates by image, (N,) each: id, label, predicted class or -1 (abstained), radius
    (0 where abstained), seconds it took (NaN where unknown).
    """

    ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    predictions: NDArray[np.int64]
    radii: Floats
    seconds: Floats

    def __post_init__(self) -> None:
        sizes = {len(part) for part in vars(self).values()}
        if sizes == {0} or len(sizes) > 1:
            given = f"columns of {sorted(sizes)} entries"
            raise InputError(given, "one entry per image, at least one", "check the log")
        if not bool((np.isfinite(self.radii) & (self.radii >= 0)).all()):
            worst = self.radii[~(np.isfinite(self.radii) & (self.radii >= 0))][0]
            raise InputError(f"a radius of {worst}", "finite radii >= 0", "check the log")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def correct(self) -> NDArray[np.bool_]:
        """(N,): the smoothed classifier answers, and answers the label."""
        found: NDArray[np.bool_] = self.predictions == self.labels
        return found

    @property
    def abstained(self) -> float:
        """The share of images without an answer."""
        return float((self.predictions == ABSTAIN).mean())

    @property
    def acr(self) -> float:
        """The average certified radius (Zhai et al. 2020): wrong and abstained images count 0."""
        return float(np.where(self.correct, self.radii, 0.0).mean())

    def certified(self, radius: float) -> int:
        """How many images are answered correctly with a certificate of at least this radius."""
        if not radius >= 0:
            raise InputError(f"radius {radius}", "a radius >= 0", "certificates begin at 0")
        return int((self.correct & (self.radii >= radius)).sum())

    def accuracy(self, radius: float) -> float:
        """The certified accuracy at a radius: that of the images at hand."""
        return self.certified(radius) / len(self)

    def ci95(self, radius: float) -> tuple[float, float]:
        """The interval of Clopper and Pearson for it, if the images are a sample of others.

        That certificates themselves may fail, each with probability alpha, is not in it.
        """
        return clopper_pearson(self.certified(radius), len(self))

    def curve(self, radii: Sequence[float]) -> list[dict[str, Any]]:
        """Rows of radius, certified_accuracy and certified_accuracy_ci95."""
        return [
            {
                "radius": float(r),
                "certified_accuracy": self.accuracy(r),
                "certified_accuracy_ci95": list(self.ci95(r)),
            }
            for r in radii
        ]
