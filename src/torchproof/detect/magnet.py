"""MagNet (Meng and Chen 2017): what autoencoders of clean images reconstruct badly, or into an
image that the classifier sees otherwise, is suspicious.
"""

from __future__ import annotations

import math
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
from torchproof.detect.parts.autoencoder import STRUCTURES, Autoencoder, Denoising
from torchproof.detect.parts.feature_matching import matching_attack
from torchproof.detect.parts.surprise import LEFT, Surprise


@dataclass(frozen=True)
class MagNet(Detector):
    """Parts: for each of `errors` (structure, p) the reconstruction error mean |x - AE(x)|^p of an
    autoencoder of its own, and for each of `temperatures` T the Jensen-Shannon divergence of
    softmax(z(x) / T) and softmax(z(AE(x)) / T), AE the first one, which is also the reformer.

    Defaults are those for MNIST, with the divergences that the paper adds on CIFAR-10 (there:
    noise=0.025, errors=(("II", 1),), epochs=400). noise, epochs, batch, lr: see `Denoising`.

    score: the largest of the parts' `Surprise`. Deviation: published is a threshold for each part,
    each dropping the same share r of clean images; {score > log2(1 / r)} is that rule, with
    quantiles of the share `held` of the training images, on which no autoencoder is trained, and
    one threshold serves for all. Raises InputError for settings that cannot be meant, and in `fit`
    for autoencoders that did not learn: 100 epochs are meant for 55,000 images.
    """

    errors: tuple[tuple[str, int], ...] = (("I", 2), ("II", 1))
    temperatures: tuple[float, ...] = (10.0, 40.0)
    noise: float = 0.1
    epochs: int = 100
    batch: int = 256
    lr: float = 1e-3
    held: float = 0.2
    name: ClassVar[str] = "magnet"
    source: ClassVar[str] = "Meng and Chen 2017"

    def __post_init__(self) -> None:
        known = all(structure in STRUCTURES and p in (1, 2) for structure, p in self.errors)
        if not self.errors or not known:
            given = f"errors = {self.errors!r}"
            expected = "pairs of a structure, 'I' or 'II', and a power, 1 or 2; one at least"
            raise InputError(given, expected, "write errors=(('I', 2), ('II', 1))")
        if not all(0 < t < math.inf for t in self.temperatures) or not 0 < self.held < 1:
            given = f"temperatures = {self.temperatures!r}, held = {self.held!r}"
            raise InputError(given, "numbers > 0, and a share between 0 and 1", "see the defaults")
        self.training()

    def training(self) -> Denoising:
        """How its autoencoders learn."""
        return Denoising(self.noise, self.epochs, self.batch, self.lr)

    def fit(self, model: nn.Module, data: Clean, seed: int = 0) -> FittedMagNet:
        count = round(self.held * len(data.x))
        if count < 2 * LEFT or count == len(data.x):
            given = f"{count} of {len(data.x)} training images held out"
            raise InputError(given, f"{2 * LEFT} at least, and some left", "pass more images")
        order = permutation(len(data.x), seed, "magnet").to(data.x.device)
        rest, place = data.x[order[count:]], home(model)
        made = [
            self.training()(rest, structure, seed_of(seed, "autoencoder", number), place)
            for number, (structure, _) in enumerate(self.errors)
        ]
        held, powers = data.x[order[:count]], [p for _, p in self.errors]
        for autoencoder in made:
            _check_learnt(autoencoder, held, rest.mean(0, keepdim=True))
        return FittedMagNet(model, made, powers, self.temperatures, held)


@torch.no_grad()
def _check_learnt(autoencoder: Autoencoder, held: Tensor, mean: Tensor) -> None:
    """An autoencoder that is no better than the mean image says nothing: raises InputError."""
    place = home(autoencoder)
    parts = torch.split(held, BATCH)
    apart = [autoencoder(part.to(place)).cpu().sub(part.cpu()).square().sum() for part in parts]
    error = float(sum(apart)) / held.numel()
    known = float((held - mean).square().mean())
    if not error < known:
        given = f"an autoencoder with mean squared error {error:.3g} on images held out"
        remedy = "train longer (epochs), in smaller batches (batch) or in larger steps (lr)"
        raise InputError(given, f"less than {known:.3g}, the mean image's", remedy)


class FittedMagNet(Fitted):
    """The score of `MagNet`, differentiable exactly. Nothing is random once it is fitted. usual:
    clean images that no autoencoder has learnt from, from which `Surprise` is fitted.

    `parts` has the measurements one by one, `bits` what they count for; `reformed` is the
    classifier behind the reformer, and WithDetector(fitted.reformed, fitted) both halves of MagNet.
    """

    def __init__(
        self,
        model: nn.Module,
        autoencoders: Sequence[Autoencoder],
        powers: Sequence[int],
        temperatures: Sequence[float],
        usual: Tensor,
    ) -> None:
        super().__init__(model)
        self.autoencoders = nn.ModuleList(autoencoders)
        self.powers, self.temperatures = tuple(powers), tuple(temperatures)
        self.autoencoders.training = False
        place = home(model)
        with untouched(self), torch.no_grad():
            found = [self.parts(part.to(place)) for part in torch.split(usual, BATCH)]
        self.surprise = Surprise(torch.cat(found))

    @property
    def reformed(self) -> Reformed:
        first = self.autoencoders[0]
        assert isinstance(first, Autoencoder)
        return Reformed(first, self.model)

    def _measured(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of x and of its reconstruction (B, 2, K), and parts (B, P)."""
        made = [autoencoder(x) for autoencoder in self.autoencoders]
        logits = torch.stack([self.model(x), self.model(made[0])], 1)
        pairs = zip(made, self.powers, strict=True)
        errors = [(x - one).abs().pow(p).flatten(1).mean(1).double() for one, p in pairs]
        apart = [jensen_shannon(logits[:, 0], logits[:, 1], t) for t in self.temperatures]
        return logits, torch.stack([*errors, *apart], 1)

    def parts(self, x: Tensor) -> Tensor:
        """(B, P) float64: reconstruction errors, then divergences."""
        return self._measured(x)[1]

    def bits(self, x: Tensor) -> Tensor:
        """(B, P) float64: how surprising each part is."""
        bits: Tensor = self.surprise(self.parts(x))
        return bits

    def forward(self, x: Tensor) -> Tensor:
        return self.bits(x).amax(1).to(torch.promote_types(x.dtype, torch.float32))

    def features(self, x: Tensor) -> Tensor:
        """(B, 2 K + P): logits of the image and of its reconstruction, and bits."""
        logits, parts = self._measured(x)
        return torch.cat([logits.flatten(1), self.surprise(parts).to(logits.dtype)], 1)

    def attacks(self, threat: AnyThreat, rule: Rejecting, clean: Clean) -> Sequence[Attack]:
        """The generic ones, which differentiate the autoencoders as Carlini and Wagner (2017) do,
        and the one that matches logits, those of the reconstruction and bits of a training image.
        """
        return (*generic_attacks(threat, rule), *matching_attack(self, threat, rule, clean))


class Reformed(nn.Module):
    """MagNet's reformer: the classifier's logits (B, K) at AE(x) instead of x (B, C, H, W)."""

    def __init__(self, autoencoder: Autoencoder, model: nn.Module) -> None:
        super().__init__()
        self.autoencoder, self.model = autoencoder, model
        self.training = False  # not .eval(), which would reset frozen parts

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(self.autoencoder(x))
        return logits


def jensen_shannon(first: Tensor, second: Tensor, temperature: float = 1.0) -> Tensor:
    """(B,) float64, in nats: the Jensen-Shannon divergence of the softmax of logits (B, K) and (B,
    K), both divided by the temperature.

    In float64, because at a high temperature it is a small difference of large terms.
    """
    p, q = (logits.double().div(temperature).log_softmax(1) for logits in (first, second))
    middle = torch.logaddexp(p, q) - math.log(2)
    return 0.5 * (p.exp() * (p - middle) + q.exp() * (q - middle)).sum(1)
