"""Natural scene statistics (Kherchouche et al. 2020, IJCNN): what an attack does to the local
contrast of an image shows, whatever the classifier.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.attack.catalogue import pgd
from torchproof.attack.combine import Attack
from torchproof.attack.starts import Zero
from torchproof.attack.untouched import home, untouched
from torchproof.core.errors import InputError
from torchproof.core.keys import permutation
from torchproof.core.rejection import Rejecting
from torchproof.core.threats import AnyThreat
from torchproof.detect.detector import BATCH, Clean, Detector, Fitted, generic_attacks
from torchproof.detect.parts.asymmetric_gaussian import Moments, law_of, moments
from torchproof.detect.parts.feature_matching import matching_attack
from torchproof.detect.parts.rbf_svm import SupportVectors
from torchproof.detect.parts.scaling import Scaling

GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601
SIDE, SIGMA, CONTRAST = 7, 7 / 6, 1 / 255
FLAT = 1e-9  # what is smaller is rounding: its sign must not count
_LEAST = 1e-12  # of a local variance, in whose root 0 has no derivative


def contrast_normalised(x: Tensor) -> Tensor:
    """(B, H, W) float64 MSCN coefficients (I - mu) / (sigma + 1/255) of images x (B, C, H, W), C 1
    or 3, with mean mu and deviation sigma under a 7 x 7 Gaussian window of deviation 7/6; borders
    are mirrored (our choice). In flat parts they are 0.

    Raises InputError for other numbers of channels and for sides below 4 pixels.
    """
    if x.shape[1] not in (1, 3) or min(x.shape[2:]) < 4:
        given = f"images of shape {tuple(x.shape[1:])}"
        raise InputError(given, "1 or 3 channels, 4 x 4 pixels at least", "resize the images")
    x = x.double()
    grey = x if x.shape[1] == 1 else (x * x.new_tensor(GREY).reshape(1, 3, 1, 1)).sum(1, True)
    at = torch.arange(SIDE, dtype=torch.float64, device=x.device) - SIDE // 2
    window = torch.exp(-(at**2) / (2 * SIGMA**2))
    window = window / window.sum()
    mean = _blurred(grey, window)
    variance = _blurred(grey.square(), window) - mean.square()
    found = (grey - mean) / (variance.clamp_min(_LEAST).sqrt() + CONTRAST)
    return torch.where(found.abs() > FLAT, found, 0.0)[:, 0]


def _blurred(x: Tensor, window: Tensor) -> Tensor:
    half = SIDE // 2
    x = F.pad(x, (half, half, half, half), mode="reflect")
    x = F.conv2d(x, window.reshape(1, 1, 1, -1))
    return F.conv2d(x, window.reshape(1, 1, -1, 1))


def scene_statistics(x: Tensor) -> Tensor:
    """(B, 18) float64 of images x (B, C, H, W): alpha and (sigma_l^2 + sigma_r^2) / 2 of the MSCN
    coefficients, then alpha, eta, sigma_l^2, sigma_r^2 of the products of neighbours: horizontal,
    vertical, main and secondary diagonal (Mittal et al. 2012), at one scale.
    """
    c = contrast_normalised(x)
    pairs = (
        (c[:, :, :-1], c[:, :, 1:]),
        (c[:, :-1], c[:, 1:]),
        (c[:, :-1, :-1], c[:, 1:, 1:]),
        (c[:, :-1, 1:], c[:, 1:, :-1]),
    )
    samples = [c, *(one * other for one, other in pairs)]
    each = zip(*(moments(s.flatten(1)) for s in samples), strict=True)
    laws = torch.stack(law_of(Moments(*(torch.stack(m) for m in each))), 2)  # (5, B, 4)
    whole = torch.stack([laws[0, :, 0], laws[0, :, 2:].mean(1)], 1)
    return torch.cat([whole, *laws[1:]], 1)


@dataclass(frozen=True)
class NSS(Detector):
    """A support vector machine on 18 statistics of the image, after scaling to [-1, 1]; clean
    images against adversarial ones. The classifier is not asked.

    cost, gamma: C and gamma of the machine with the sigmoid kernel. at_most: images that it is
    fitted on, drawn by the seed, each in both versions. In the paper the adversarial ones are
    successful PGD images of six strengths at once.
    """

    name: ClassVar[str] = "nss"
    source: ClassVar[str] = "Kherchouche et al. 2020"
    supervised: ClassVar[bool] = True

    cost: float = 10.0
    gamma: float = 0.01
    at_most: int = 1000

    def __post_init__(self) -> None:
        if not (self.cost > 0 and self.gamma > 0 and self.at_most >= 2):
            given = f"cost = {self.cost}, gamma = {self.gamma}, at_most = {self.at_most}"
            raise InputError(given, "numbers > 0, two images at least", "leave them out")

    def fit(self, model: nn.Module, data: Clean, seed: int = 0) -> FittedNSS:
        from sklearn.svm import SVC

        self.check(data)
        assert data.adversarial is not None
        if len(data.x) < 2:
            raise InputError("one image", "two at least", "fit on more images")
        place = home(model)
        rows = permutation(len(data.x), seed, "nss")[: self.at_most].sort().values
        rows = rows.to(data.x.device)
        with untouched(model), torch.no_grad():
            halves = [_statistics(images[rows], place) for images in (data.x, data.adversarial)]
            answers = [model(part.to(place)) for part in torch.split(data.x[rows], BATCH)]
            spread = torch.cat(answers).double().std().clamp_min(1e-9)
            features = torch.cat(halves)
            scaling = Scaling.min_max(features, -1.0, 1.0)
            labels = [0] * len(rows) + [1] * len(rows)
            machine = SVC(kernel="sigmoid", C=self.cost, gamma=self.gamma)
            machine.fit(scaling(features).cpu().numpy(), labels)
            return FittedNSS(model, SupportVectors.of(machine, scaling).to(place), spread)


def _statistics(x: Tensor, place: torch.device) -> Tensor:
    return torch.cat([scene_statistics(part.to(place)) for part in torch.split(x, BATCH)])


class FittedNSS(Fitted):
    """Score: the machine's decision value, above 0 for adversarial. `features`: the 18 scaled
    statistics, and the logits in units of their spread, as an adversary has to match both.
    """

    gradient: ClassVar[str] = (
        "exact but for counts: how many coefficients are below and above 0 is taken as constant"
    )
    spread: Tensor

    def __init__(self, model: nn.Module, machine: SupportVectors, spread: Tensor) -> None:
        super().__init__(model)
        self.machine = machine
        self.register_buffer("spread", spread)

    def forward(self, x: Tensor) -> Tensor:
        score: Tensor = self.machine(scene_statistics(x))
        return score

    def features(self, x: Tensor) -> Tensor:
        assert self.machine.scaling is not None
        logits = self.model(x).double() / self.spread.double()
        return torch.cat([self.machine.scaling(scene_statistics(x)), logits], 1)

    def attacks(self, threat: AnyThreat, rule: Rejecting, clean: Clean) -> Sequence[Attack]:
        """Besides the generic ones: through the moments from the image itself, as a random start
        roughens every flat part; and towards statistics and logits of an image of the target class.
        """
        quiet = pgd(threat, 100, start=Zero(), objective=rule)
        return *generic_attacks(threat, rule), quiet, *matching_attack(self, threat, rule, clean)
