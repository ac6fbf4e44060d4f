"""Deep neural rejection (Sotgiu et al. 2020): support vector machines on several layers, and one on
what they say, which knows no image far from all it was fitted on.
"""

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
from torchproof.detect.detector import BATCH, Clean, Detector, Fitted, generic_attacks
from torchproof.detect.parts.feature_matching import matching_attack
from torchproof.detect.parts.one_vs_rest import OneVsRest
from torchproof.detect.parts.rbf_svm import SupportVectors
from torchproof.nn.taps import hidden_layers, tapped

LAYERS = 3  # of the paper, where none are named


@dataclass(frozen=True)
class DNR(Detector):
    """On each layer machines with a Gaussian kernel, one class against the rest; their decision
    values side by side are the features of a combiner of the same kind. score = -(largest decision
    value of the combiner).

    layers: dotted names; none: the last three hidden ones. cost and gamma are those of the machines
    on layers: by default scikit-learn's, because good ones depend on how large the numbers in a
    layer are. Those of the combiner are the authors' for MNIST; for CIFAR-10 they took a cost of
    1e-4. Its kernel must be narrow: with gamma = "scale" little is far from all it knows. folds:
    the combiner is fitted on values of base machines that have not seen the row (cross-validation,
    as in the original; the number is our choice), the base machines in use on all rows. at_most: so
    many training images are drawn by the seed.

    Deviation: the original answers with the combiner's class (see `FittedDNR.decisions`); here the
    classifier answers, and is believed or not. Raises InputError for settings that cannot be meant.
    """

    layers: tuple[str, ...] = ()
    cost: float = 1.0
    gamma: float | str = "scale"
    combiner_cost: float = 0.1
    combiner_gamma: float | str = 1.0
    folds: int = 5
    at_most: int = 2000
    name: ClassVar[str] = "dnr"
    source: ClassVar[str] = "Sotgiu et al. 2020"

    def __post_init__(self) -> None:
        if self.folds < 2 or self.at_most < 2:
            given = f"folds = {self.folds!r}, at_most = {self.at_most!r}"
            raise InputError(given, "2 or more of both", "see the defaults")
        self.machines()

    def machines(self) -> tuple[OneVsRest, OneVsRest]:
        """How those on layers and how the combiner is fitted."""
        return OneVsRest(self.cost, self.gamma), OneVsRest(self.combiner_cost, self.combiner_gamma)

    def fit(self, model: nn.Module, data: Clean, seed: int = 0) -> FittedDNR:
        x, y = data.x, data.y.to(data.x.device)
        if len(x) > self.at_most:
            rows = permutation(len(x), seed, "dnr")[: self.at_most].sort().values.to(x.device)
            x, y = x[rows], y[rows]
        if len(torch.unique(y)) < 2:
            raise InputError("images of one class", "two classes or more", "pass other images")
        place = home(model)
        with untouched(model), torch.no_grad():
            layers = self.layers or hidden_layers(model, x[:1].to(place), LAYERS)
            parts = [tapped(model, part.to(place), layers)[1] for part in torch.split(x, BATCH)]
        features = [torch.cat(layer).flatten(1).cpu() for layer in zip(*parts, strict=True)]
        (below, above), folds = self.machines(), seed_of(seed, "folds")
        told = [below.out_of_fold(layer, y, self.folds, folds) for layer in features]
        base = [below.fit(layer, y) for layer in features]
        return FittedDNR(model, layers, base, above.fit(torch.cat(told, 1), y)).to(place)


class FittedDNR(Fitted):
    """The score of `DNR`, differentiable exactly."""

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[str],
        base: Sequence[SupportVectors],
        combiner: SupportVectors,
    ) -> None:
        super().__init__(model)
        self.layers, self.base, self.combiner = tuple(layers), nn.ModuleList(base), combiner
        self.base.training = False

    def base_decisions(self, x: Tensor) -> Tensor:
        """(B, layers * K) float64: what the machines of the layers say, side by side."""
        found = tapped(self.model, x, self.layers)[1]
        pairs = zip(self.base, found, strict=True)
        return torch.cat([machine(layer.double()) for machine, layer in pairs], 1)

    def decisions(self, x: Tensor) -> Tensor:
        """(B, K) float64: what the combiner says of each class; the original answers with the
        largest.
        """
        values: Tensor = self.combiner(self.base_decisions(x))
        return values

    def forward(self, x: Tensor) -> Tensor:
        return -self.decisions(x).amax(1).to(torch.promote_types(x.dtype, torch.float32))

    def features(self, x: Tensor) -> Tensor:
        """(B, D): the layers, flattened, each times the root of its gamma, so that squared
        distances are those in the kernels.
        """
        found = tapped(self.model, x, self.layers)[1]
        pairs = zip(self.base, found, strict=True)
        return torch.cat([_scaled(layer.flatten(1), machine) for machine, layer in pairs], 1)

    def attacks(self, threat: AnyThreat, rule: Rejecting, clean: Clean) -> Sequence[Attack]:
        """Besides the generic ones, which differentiate all machines as Pintor et al. (2022) do:
        towards the layers of a training image, where machines far from all they know are flat.
        """
        return (*generic_attacks(threat, rule), *matching_attack(self, threat, rule, clean))


def _scaled(layer: Tensor, machine: nn.Module) -> Tensor:
    assert isinstance(machine, SupportVectors)
    return layer * machine.gamma.sqrt().to(layer)
