"""SFAD: selective networks on the last layers vote whether to answer (Aldahdooh et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from torchproof.attack.catalogue import pgd
from torchproof.attack.combine import Attack, EveryTarget
from torchproof.attack.starts import Uniform
from torchproof.attack.untouched import home, precision, untouched
from torchproof.core.errors import InputError
from torchproof.core.keys import permutation, seed_of
from torchproof.core.rejection import Rejecting
from torchproof.core.threats import AnyThreat
from torchproof.detect.detector import BATCH, Clean, Detector, Fitted, generic_attacks
from torchproof.detect.parts.every_view import EveryView
from torchproof.detect.parts.feature_matching import matching_attack
from torchproof.detect.parts.selective import Combiner, LayerReader, Training, learn
from torchproof.nn.taps import hidden_layers, tapped

READERS = 3
PARTS = ("selection 1", "selection 2", "selection 3", "selection", "confidence", "mismatch")
_LEAST = 20  # images held out that the classifier gets right
_NARROWEST = 0.01  # logits


@dataclass(frozen=True)
class SFAD(Detector):
    """Three selective networks (`LayerReader`) on the last three layers and a fourth on their
    probabilities (`Combiner`), all trained on the labels. An image is adversarial if any of the
    four does not want to answer, if the combiner is not confident, or if its class is not that of
    the classifier (Aldahdooh, Hamidouche and Deforges 2021, arXiv 2103.05354).

    layers: three dotted names, by default the last three hidden ones; coverage: the least mean of
    g; rejected: the shares of clean images below the thresholds of selection and of confidence;
    width: of the three, 1 as published; noise: deviation, in training. The published settings
    are those of CIFAR-10; MNIST: coverage 1, rejected (0.06, 0.012), noise 1.

    Deviations: the thresholds come from a fifth of the training images, held out, that the
    classifier gets right, not from the test images; g of the combiner is one sigmoid, not two. One
    score stands for the six decisions: `FittedSFAD`.
    """

    layers: tuple[str, ...] = ()
    coverage: float = 0.9
    rejected: tuple[float, float] = (0.04, 0.09)
    width: float = 1.0
    noise: float = 0.05
    epochs: int = 30
    batch: int = 200
    lr: float = 0.01

    name: ClassVar[str] = "SFAD"
    source: ClassVar[str] = "Aldahdooh et al. 2021"

    def __post_init__(self) -> None:
        Training(self.coverage, self.epochs, self.batch, self.lr)
        if not all(0 < share < 0.5 for share in self.rejected) or len(self.rejected) != 2:
            given = f"rejected = {self.rejected!r}"
            raise InputError(given, "two shares between 0 and 0.5", "write (0.04, 0.09)")
        if len(self.layers) not in (0, READERS):
            given = f"{len(self.layers)} layers"
            raise InputError(given, f"{READERS} layers, or none", "leave them out")
        if not self.width > 0 or not self.noise >= 0:
            given = f"width {self.width!r}, noise {self.noise!r}"
            raise InputError(given, "width > 0 and noise >= 0", "leave them out")

    def fit(self, model: nn.Module, data: Clean, seed: int = 0) -> FittedSFAD:
        """Raises InputError where fewer than 20 of the images held out are classified rightly, and
        for fewer than two images to train on; ModelError for layers of other shapes than maps and
        units, and for a loss that is not finite.
        """
        order = permutation(len(data.x), seed, "sfad", "held out")
        held, rows = order[: len(order) // 5], order[len(order) // 5 :]
        if len(rows) < 2 or len(held) < _LEAST:
            given = f"{len(data.x)} images to fit SFAD on"
            raise InputError(given, f"at least {5 * _LEAST}", "pass more images")
        with untouched(model, seed_of(seed, "sfad")):
            fitted = self._trained(model, data.x[rows], data.y[rows], seed)
            with torch.no_grad():
                fitted.calibrated(data.x[held], data.y[held], self.rejected)
                fitted.covered(data.x[rows])
        return fitted

    def _trained(self, model: nn.Module, x: Tensor, y: Tensor, seed: int) -> FittedSFAD:
        """Inside `untouched`. The readers first, then the combiner on what they say when frozen."""
        place, dtype = home(model), _precision(model)
        layers = self.layers or hidden_layers(model, x[:2].to(place), READERS)

        def read(rows: Tensor) -> list[Tensor]:
            with torch.no_grad():
                found = tapped(model, x[rows].to(place), layers)[1]
            return [layer.to(dtype) for layer in found]

        with torch.no_grad():
            classes = model(x[:2].to(place)).shape[1]
        shapes = [layer.shape[1:] for layer in read(torch.arange(2))]
        readers = nn.ModuleList(
            LayerReader(shape, classes, self.width, self.noise) for shape in shapes
        ).to(place, dtype)
        training = Training(self.coverage, self.epochs, self.batch, self.lr)
        learn(list(readers), read, y, training, seed_of(seed, "sfad", "readers"))
        combiner = Combiner(READERS * classes, classes).to(place, dtype)
        fitted = FittedSFAD(model, layers, readers, combiner)
        with torch.no_grad():
            parts = torch.split(torch.arange(len(x)), BATCH)
            known = torch.cat([fitted.probabilities(read(rows)) for rows in parts])
        slowing = Training(self.coverage, self.epochs, self.batch, self.lr, halving=10)
        purpose = seed_of(seed, "sfad", "combiner")
        learn([combiner], lambda rows: [known[rows.to(place)]], y, slowing, purpose)
        return fitted


class FittedSFAD(Fitted):
    """score: the largest of six excesses (`PARTS`), each of which is above 0 where the method
    decides on adversarial. So the score is above 0 where any of the six does, and ranks images
    where the decision only tells two groups apart.

    An excess is (threshold - value) / (median of the value - its quantile). The values are the
    log-odds of g, four times, against their quantiles; the log-odds of the combiner's largest
    probability, against the largest of the quantiles of all four networks; and by how much the
    combiner's logit of the classifier's own class is above all its others, against 0. Log-odds go
    up and down with what the method compares, and keep a gradient where probabilities are 0 or 1.

    `gradient`: exact; the mismatch jumps where the classifier's class changes. Nothing is random:
    the noise is that of training, as in the authors' code. coverages (4,): mean g of the four
    networks on the images they were trained on.
    """

    thresholds: Tensor
    spreads: Tensor
    coverages: Tensor

    def __init__(
        self, model: nn.Module, layers: Sequence[str], readers: nn.ModuleList, combiner: Combiner
    ) -> None:
        super().__init__(model)
        self.layers, self.readers, self.combiner = tuple(layers), readers, combiner
        like = next(combiner.parameters())
        for name, count in (("thresholds", len(PARTS)), ("spreads", len(PARTS)), ("coverages", 4)):
            self.register_buffer(name, like.new_ones(count))

    def forward(self, x: Tensor) -> Tensor:
        return self.parts(x).amax(1)

    def parts(self, x: Tensor) -> Tensor:
        """(B, 6): the excesses, in the order of `PARTS`."""
        logits, _, said, select = self._read(x)
        values = [select, _odds(said)[:, None], _lead(said, logits.argmax(1))[:, None]]
        return (self.thresholds - torch.cat(values, 1)) / self.spreads

    def features(self, x: Tensor) -> Tensor:
        """(B, 5 K + 4): logits of the classifier, the readers and the combiner, log-odds of g."""
        logits, read, said, select = self._read(x)
        return torch.cat([logits.to(said), *read, said, select], 1)

    def attacks(self, threat: AnyThreat, rule: Rejecting, clean: Clean) -> Sequence[Attack]:
        """All heads at once: towards one class in the classifier, the readers and the combiner, and
        towards the logits and wishes that an image of another class has.
        """
        agree = pgd(threat, steps=100, start=Uniform(), objective=EveryView(READERS + 2, rule))
        match = matching_attack(self, threat, rule, clean)
        return *generic_attacks(threat, rule), EveryTarget(agree, 3), *match

    def probabilities(self, layers: Sequence[Tensor]) -> Tensor:
        """(B, 3 K): of the readers, side by side, from their layers."""
        answers = [reader(layer) for reader, layer in zip(self.readers, layers, strict=True)]
        return torch.cat([answer.logits.softmax(1) for answer in answers], 1)

    def _read(self, x: Tensor) -> tuple[Tensor, list[Tensor], Tensor, Tensor]:
        """Logits of the classifier (B, K), of the readers, of the combiner; log-odds (B, 4)."""
        logits, layers = tapped(self.model, x, self.layers)
        own = self.thresholds.dtype
        answers = [
            reader(layer.to(own)) for reader, layer in zip(self.readers, layers, strict=True)
        ]
        told = [answer.logits for answer in answers]
        last = self.combiner(torch.cat([z.softmax(1) for z in told], 1))
        select = [answer.select for answer in [*answers, last]]
        return logits, told, last.logits, torch.stack(select, 1)

    def calibrated(self, x: Tensor, y: Tensor, rejected: tuple[float, float]) -> None:
        """Sets thresholds and spreads by images that nothing was trained on, inside `untouched`."""
        logits, read, said, select = self._batches(x)
        right = logits.argmax(1).cpu() == y.cpu()
        if int(right.sum()) < _LEAST:
            given = f"{int(right.sum())} held-out images that the classifier gets right"
            raise InputError(given, f"at least {_LEAST}", "pass more images of its kind")
        told = torch.stack([_odds(z[right]) for z in (*read, said)], 1)
        # "lower": a value that occurs, so that log-odds and probabilities give the same decisions
        sure = told.quantile(rejected[1], 0, interpolation="lower")
        wish = select[right].quantile(rejected[0], 0, interpolation="lower")
        low = [wish, sure.amax()[None], sure.new_zeros(1)]
        own = [low[0], sure[-1:], low[2]]  # the combiner's own quantile sets the unit
        lead = _lead(said[right], logits[right].argmax(1))
        values = torch.cat([select[right], told[:, -1:], lead[:, None]], 1)
        spreads = values.quantile(0.5, 0) - torch.cat(own)
        self.thresholds.copy_(torch.cat(low))
        self.spreads.copy_(spreads.clamp_min(_NARROWEST))

    def covered(self, x: Tensor) -> None:
        """Notes the mean g on images x, inside `untouched`."""
        self.coverages.copy_(self._batches(x)[3].sigmoid().mean(0))

    def _batches(self, x: Tensor) -> tuple[Tensor, list[Tensor], Tensor, Tensor]:
        found = [self._read(part.to(home(self))) for part in torch.split(x, BATCH)]
        logits, read, said, select = zip(*found, strict=True)
        readers = [torch.cat(parts) for parts in zip(*read, strict=True)]
        return torch.cat(logits), readers, torch.cat(said), torch.cat(select)


def _odds(logits: Tensor) -> Tensor:
    """(B,) log p / (1 - p) of the largest probability p."""
    top, at = logits.max(1)
    return top - logits.scatter(1, at[:, None], -torch.inf).logsumexp(1)


def _lead(logits: Tensor, classes: Tensor) -> Tensor:
    """(B,) by how much the logit of these classes (B,) is above the largest other one."""
    own = logits.gather(1, classes[:, None])
    return own[:, 0] - logits.scatter(1, classes[:, None], -torch.inf).amax(1)


def _precision(model: nn.Module) -> torch.dtype:
    return torch.promote_types(precision(model) or torch.float32, torch.float32)
