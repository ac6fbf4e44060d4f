"""Kernel density and Bayesian uncertainty (Feinman et al. 2017, arXiv 1703.00410)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from torchproof.attack.combine import Attack
from torchproof.attack.untouched import home, untouched
from torchproof.core.errors import InputError
from torchproof.core.keys import permutation, seed_of
from torchproof.core.rejection import Rejecting
from torchproof.core.threats import AnyThreat
from torchproof.detect.detector import BATCH, Clean, Detector, generic_attacks
from torchproof.detect.parts.dropout_passes import DropoutPasses, uncertainty
from torchproof.detect.parts.feature_matching import matching_attack
from torchproof.detect.parts.kde import ClassDensities, best_bandwidth
from torchproof.detect.parts.logistic import Weighed
from torchproof.detect.parts.scaling import Scaling
from torchproof.nn.taps import hidden_layers, tapped


@dataclass(frozen=True)
class KDBU(Detector):
    """An adversarial image lies where its predicted class is rare, and the passes of a network with
    dropout disagree about it. A logistic regression weighs the two, after z-scores; clean and noisy
    images are its negatives.

    bandwidth: of the density; None: tuned, see `best_bandwidth` (Feinman et al.: MNIST 1.2, CIFAR
    0.26, SVHN 1.0). passes: with dropout, 0 for density alone. layers: whose answers the density is
    of, joined; none: the last hidden layer. share: of the images of each class that make the
    density; the others, which must not lie in it, teach the regression. at_most: points of a class.

    The masks of dropout are drawn by the seed when it is fitted, the same for every image and call:
    an adversary who knows them is the strongest. Fitting, this is read: x, y and adversarial.
    """

    name: ClassVar[str] = "kd-bu"
    source: ClassVar[str] = "Feinman et al. 2017"
    supervised: ClassVar[bool] = True

    bandwidth: float | None = None
    passes: int = 50
    layers: tuple[str, ...] = ()
    share: float = 0.5
    at_most: int = 1000

    def __post_init__(self) -> None:
        if not (0 < self.share < 1 and self.passes >= 0 and self.passes != 1 and self.at_most > 0):
            given = f"share = {self.share}, passes = {self.passes}, at_most = {self.at_most}"
            expected = "0 < share < 1, at least two passes or none, at_most > 0"
            raise InputError(given, expected, "leave them out: the defaults are the paper's")

    def fit(self, model: nn.Module, data: Clean, seed: int = 0) -> FittedKDBU:
        self.check(data)
        assert data.adversarial is not None
        dense, rest = self._split(data.y, seed)
        place = home(model)
        with untouched(model, seed_of(seed, "kd-bu")), torch.no_grad():
            some = data.x[:2].to(place)
            layers = self.layers or hidden_layers(model, some, 1)
            parts = [
                _read(model, part.to(place), layers) for part in torch.split(data.x[dense], BATCH)
            ]
            points, labels = torch.cat([p for _, p in parts]), data.y[dense].to(place)
            width = best_bandwidth(points, labels) if self.bandwidth is None else self.bandwidth
            classes = parts[0][0].shape[1]
            densities = ClassDensities(points, labels, classes, width)
            passes = DropoutPasses.drawn(model, some, self.passes, seed) if self.passes else None
            fitted = FittedKDBU(model, layers, densities, passes)
            fitted.learn(data.x[rest], data.adversarial[rest], Scaling.z_score, seed)
        return fitted

    def _split(self, y: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Rows for the density and for the regression: `share` of each class, and the rest."""
        order = permutation(len(y), seed, "kd-bu split").to(y.device)
        dense, rest = [], []
        for label in torch.unique(y).tolist():
            rows = order[y[order] == label]
            count = max(1, round(self.share * len(rows)))
            dense.append(rows[: min(count, self.at_most)])
            rest.append(rows[count:])
        return torch.cat(dense), torch.cat(rest)


class FittedKDBU(Weighed):
    """`features`: the answers of the layers, in which the density is estimated."""

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[str],
        densities: ClassDensities,
        passes: DropoutPasses | None,
    ) -> None:
        super().__init__(model)
        self.layers, self.densities, self.passes = tuple(layers), densities, passes

    def evidence(self, x: Tensor) -> Tensor:
        """(B, 2) float64: the log-density of the predicted class, and the uncertainty; (B, 1)
        without passes.
        """
        logits, features = _read(self.model, x, self.layers)
        found = [self.densities(features, logits.argmax(1))]
        if self.passes is not None:
            found.append(uncertainty(self.passes(self.model, x)))
        return torch.stack(found, 1)

    def features(self, x: Tensor) -> Tensor:
        return _read(self.model, x, self.layers)[1]

    def attacks(self, threat: AnyThreat, rule: Rejecting, clean: Clean) -> Sequence[Attack]:
        """Besides the generic ones, an image of the target class is matched in the layers of the
        density, which makes the density high as well; all through the fixed masks.
        """
        return *generic_attacks(threat, rule), *matching_attack(self, threat, rule, clean)


def _read(model: nn.Module, x: Tensor, layers: Sequence[str]) -> tuple[Tensor, Tensor]:
    logits, answers = tapped(model, x, layers)
    return logits, torch.cat([answer.flatten(1) for answer in answers], 1)
