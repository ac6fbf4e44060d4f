"""NIC: what is usual in each layer, and from each layer to the next (Ma et al. 2019)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
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
from torchproof.detect.parts.derived import Heads, train_heads
from torchproof.detect.parts.every_view import EveryView
from torchproof.detect.parts.feature_matching import matching_attack
from torchproof.detect.parts.one_class import Kind, Value, check_kind, one_class
from torchproof.detect.parts.scaling import Scaling
from torchproof.nn.taps import hidden_layers, tapped

_LEAST = 20  # images for each set of machines


@dataclass(frozen=True)
class NIC(Detector):
    """One-class machines on the activations of each layer, the logits among them ("value
    invariants"), and on the softmax outputs of each two consecutive derived models, of which the
    classifier is the last ("provenance invariants"); one more on what all of them say (Ma, Liu,
    Tao, Lee and Zhang 2019, NDSS).

    layers: dotted names, by default all hidden ones; value, pair, final: nu and gamma of the
    machines; components: layers with more entries go through that many principal components;
    at_most: images for the machines of layers and pairs, and as many others for the final one;
    epochs, lr: of the derived models' heads, by Adam.

    Deviations. The heads are trained and frozen: the authors' published code leaves them at random
    weights. Nothing is fitted on the images of the step before: heads, machines and the final
    machine get images of their own, drawn by the seed. gamma is "scale" throughout: the published
    numbers for layers (1, 0.5 or 0.1) are in units of activations, and on other networks the kernel
    is 0 between any two images. The final machine reads decision values at mean 0 and variance 1,
    whose sizes else differ a hundredfold.
    """

    layers: tuple[str, ...] = ()
    value: Kind = (0.01, "scale")
    pair: Kind = (0.1, "scale")
    final: Kind = (0.1, "scale")
    components: int = 5000
    at_most: int = 2000
    epochs: int = 10
    lr: float = 1e-3

    name: ClassVar[str] = "NIC"
    source: ClassVar[str] = "Ma et al. 2019"

    def __post_init__(self) -> None:
        for name in ("value", "pair", "final"):
            check_kind(getattr(self, name), name)
        numbers = (self.components >= 1, self.at_most >= _LEAST, self.epochs >= 0, self.lr > 0)
        if not all(numbers):
            given = (
                f"components {self.components!r}, at_most {self.at_most!r}, "
                f"epochs {self.epochs!r}, lr {self.lr!r}"
            )
            expected = f"components >= 1, at_most >= {_LEAST}, epochs >= 0, lr > 0"
            raise InputError(given, expected, "change what is out of range")

    def fit(self, model: nn.Module, data: Clean, seed: int = 0) -> FittedNIC:
        """A quarter of the images, or `at_most`, for each of the two sets of machines, the rest for
        the heads. Raises InputError for fewer than 80 images; ModelError for layers that cannot be
        read and for a loss that is not finite.
        """
        count = len(data.x)
        size = min(self.at_most, count // 4)
        if size < _LEAST:
            remedy = "pass more images"
            raise InputError(f"{count} images to fit NIC on", f"at least {4 * _LEAST}", remedy)
        order = permutation(count, seed, "nic", "parts").to(data.x.device)
        first, last, rest = torch.split(order, [size, size, count - 2 * size])
        with untouched(model, seed_of(seed, "nic")):
            fitted = self._derived(model, data.x[rest], data.y[rest], seed)
            with torch.no_grad():
                fitted.learn(data.x[first], data.x[last], self)
        return fitted

    def _derived(self, model: nn.Module, x: Tensor, y: Tensor, seed: int) -> FittedNIC:
        """Inside `untouched`: the derived models, and no machines yet."""
        place = home(model)
        layers = self.layers or hidden_layers(model, x[:1].to(place))

        def read(rows: Tensor) -> tuple[Tensor, list[Tensor]]:
            with torch.no_grad():
                return tapped(model, x[rows.to(x.device)].to(place), layers)

        logits, found = read(torch.arange(1))
        dtype = torch.promote_types(precision(model) or torch.float32, torch.float32)
        heads = Heads([layer.numel() for layer in found], logits.shape[1]).to(place, dtype)
        purpose = seed_of(seed, "nic", "heads")
        train_heads(heads, lambda rows: read(rows)[1], y, self.epochs, self.lr, purpose)
        return FittedNIC(model, layers, heads)


class FittedNIC(Fitted):
    """score: minus the decision function of the final machine, so above 0: an outlier. Exactly
    differentiable. Far away from all clean images it comes to rest at its largest value, and its
    gradient with it.

    decisions(x) is what the final machine reads: the L + 1 machines of `values` (the layers, the
    logits), then the L of `pairs`, all of them higher for more usual.
    """

    def __init__(self, model: nn.Module, layers: Sequence[str], heads: Heads) -> None:
        super().__init__(model)
        self.layers, self.heads = tuple(layers), heads
        self.values, self.pairs = nn.ModuleList().eval(), nn.ModuleList().eval()
        self.final = nn.Module()

    def forward(self, x: Tensor) -> Tensor:
        usual: Tensor = self.final(self.decisions(x))
        return -usual.to(x.dtype)

    def decisions(self, x: Tensor) -> Tensor:
        """(B, 2 L + 1) float64."""
        return self._decisions(*tapped(self.model, x, self.layers))

    def provenance(self, x: Tensor) -> list[Tensor]:
        """L times (B, 2 K) float64: the probabilities of two consecutive derived models."""
        return self._provenance(*tapped(self.model, x, self.layers))

    def features(self, x: Tensor) -> Tensor:
        """(B, (L + 1) K + 2 L + 1): logits of the classifier and of the heads, decisions."""
        logits, layers = tapped(self.model, x, self.layers)
        decisions = self._decisions(logits, layers).to(logits.dtype)
        return torch.cat([logits, *self.heads(layers), decisions], 1)

    def attacks(self, threat: AnyThreat, rule: Rejecting, clean: Clean) -> Sequence[Attack]:
        """Towards one class in all derived models at once, and towards the derived models' logits
        and the decisions that an image of another class has.
        """
        views = EveryView(len(self.layers) + 1, rule)
        agree = pgd(threat, steps=100, start=Uniform(), objective=views)
        match = matching_attack(self, threat, rule, clean)
        return *generic_attacks(threat, rule), EveryTarget(agree, 3), *match

    def learn(self, first: Tensor, last: Tensor, how: NIC) -> None:
        """Fits the machines of layers and pairs on images `first`, the final one on `last`; inside
        `untouched`. Layer by layer, since all of them together may be large.
        """
        for name in self.layers:
            known = self._over(first, partial(_layer, self.model, name))
            self.values.append(Value(known, how.value, how.components))
        logits = self._over(first, self.model)
        self.values.append(Value(logits, how.value, how.components))
        steps = self._over(first, lambda x: torch.stack(self.provenance(x), 1))
        self.pairs.extend(one_class(step, how.pair) for step in steps.unbind(1))
        known = self._over(last, self.decisions)
        self.final = one_class(known, how.final, Scaling.z_score(known))

    def _over(self, x: Tensor, read: Callable[[Tensor], Tensor]) -> Tensor:
        place = home(self.model)
        return torch.cat([read(part.to(place)) for part in torch.split(x, BATCH)])

    def _decisions(self, logits: Tensor, layers: Sequence[Tensor]) -> Tensor:
        steps = self._provenance(logits, layers)
        usual = [value(a) for value, a in zip(self.values, (*layers, logits), strict=True)]
        usual += [pair(step) for pair, step in zip(self.pairs, steps, strict=True)]
        return torch.stack(usual, 1)

    def _provenance(self, logits: Tensor, layers: Sequence[Tensor]) -> list[Tensor]:
        told = [z.double().softmax(1) for z in (*self.heads(layers), logits)]
        return [torch.cat(both, 1) for both in pairwise(told)]


def _layer(model: nn.Module, name: str, x: Tensor) -> Tensor:
    return tapped(model, x, [name])[1][0]
