"""Local intrinsic dimensionality of the layers' answers (Ma et al. 2018, arXiv 1801.02613)."""

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
from torchproof.detect.detector import Clean, Detector, generic_attacks
from torchproof.detect.parts.distances import squared_distances
from torchproof.detect.parts.feature_matching import matching_attack
from torchproof.detect.parts.logistic import Weighed
from torchproof.detect.parts.scaling import Scaling
from torchproof.nn.taps import hidden_layers, tapped

NEAREST = 1e-12  # smallest (r_i / r_k)^2: a reference that equals the image counts as this near
FLATTEST = 1e-4  # smallest mean of log(r_k / r_i): equal distances are a dimension of 10,000


def local_dimension(x: Tensor, points: Tensor, k: int) -> Tensor:
    """(B,) float64: -(1/k sum_{i<=k} log(r_i / r_k))^-1, with r_i the i-th smallest distance of x
    (B, D) to points (P, D), P >= k, none of which is left out (Ma et al. 2018, eq. 4).

    Differentiable in x, also at a point, where the distance 0 counts as r_k / 10^6.
    """
    near = squared_distances(x, points).topk(k, dim=1, largest=False).values
    tiny = torch.finfo(torch.float64).tiny
    ratio = (near / near[:, -1:].clamp_min(tiny)).clamp_min(NEAREST)
    return 1 / (-0.5 * ratio.log().mean(1)).clamp_min(FLATTEST)


@dataclass(frozen=True)
class LID(Detector):
    """Around an adversarial image the data seem to have another dimension. A logistic regression
    weighs that of the image itself, of each layer and of the logits, after scaling to [0, 1]; clean
    and noisy images are its negatives.

    k: neighbours (20 in the comparison for MNIST and SVHN, 30 for CIFAR-10). batch: clean images in
    which they are looked for. layers: besides image and logits; none: all hidden layers.

    The batch is drawn by the seed when it is fitted, the same for every image and call. Unlike in
    the published code its images are nobody's source: neither they nor what was made of them teach
    the regression, and no nearest neighbour is dropped.
    """

    name: ClassVar[str] = "lid"
    source: ClassVar[str] = "Ma et al. 2018"
    supervised: ClassVar[bool] = True

    k: int = 20
    batch: int = 100
    layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 2 <= self.k <= self.batch:
            given = f"k = {self.k} neighbours in a batch of {self.batch}"
            raise InputError(given, "2 <= k <= batch", "k is 20 or 30 of 100 in the literature")

    def fit(self, model: nn.Module, data: Clean, seed: int = 0) -> FittedLID:
        self.check(data)
        assert data.adversarial is not None
        if len(data.x) <= self.batch:
            expected = f"more than the {self.batch} that are looked into"
            raise InputError(f"{len(data.x)} images", expected, "fit on more, or lower batch")
        order = permutation(len(data.x), seed, "lid batch").to(data.x.device)
        batch, rest = order[: self.batch], order[self.batch :]
        place = home(model)
        with untouched(model, seed_of(seed, "lid")), torch.no_grad():
            near = data.x[batch].to(place)
            layers = self.layers or hidden_layers(model, near[:2])
            fitted = FittedLID(model, layers, _answers(model, near, layers), self.k)
            fitted.learn(data.x[rest], data.adversarial[rest], Scaling.min_max, seed)
        return fitted


class FittedLID(Weighed):
    """`features`: image, layers and logits, joined; each is divided by the mean distance within the
    batch, so that one is matched as well as another.
    """

    def __init__(
        self, model: nn.Module, layers: Sequence[str], answers: Sequence[Tensor], k: int
    ) -> None:
        super().__init__(model)
        self.layers, self.k = tuple(layers), k
        lengths = []
        for i, answer in enumerate(answers):
            self.register_buffer(f"batch{i}", answer.detach().clone())
            lengths.append(squared_distances(answer, answer).mean().sqrt().clamp_min(1e-9))
        self.register_buffer("lengths", torch.stack(lengths))

    def evidence(self, x: Tensor) -> Tensor:
        """(B, L + 2) float64: the dimension at the image, in the L layers, in the logits."""
        answers = _answers(self.model, x, self.layers)
        found = [
            local_dimension(answer, self.get_buffer(f"batch{i}"), self.k)
            for i, answer in enumerate(answers)
        ]
        return torch.stack(found, 1)

    def features(self, x: Tensor) -> Tensor:
        answers = _answers(self.model, x, self.layers)
        lengths = self.get_buffer("lengths")
        return torch.cat([a / length.to(a) for a, length in zip(answers, lengths, strict=True)], 1)

    def attacks(self, threat: AnyThreat, rule: Rejecting, clean: Clean) -> Sequence[Attack]:
        """Besides the generic ones, of which that towards a class with all confidence is what LID
        fell to (Athalye et al. 2018), an image of that class is matched in all layers at once.
        """
        return *generic_attacks(threat, rule), *matching_attack(self, threat, rule, clean)


def _answers(model: nn.Module, x: Tensor, layers: Sequence[str]) -> list[Tensor]:
    """(B, D) each: the image, the layers, the logits."""
    logits, answers = tapped(model, x, layers)
    return [answer.flatten(1) for answer in (x, *answers, logits)]
