"""Interpolated adversarial training (Lamb, Verma, Kawaguchi, Matyasko, Khosla, Kannala and Bengio
2022; first Lamb et al. 2019, arXiv 1906.06784).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from torchproof.core.errors import InputError
from torchproof.train.factor import check_factor
from torchproof.train.inner import Adversarial
from torchproof.train.method import Batch, answers, cross_entropy
from torchproof.train.mixup import INPUT, Mix, draw, layer_of


@dataclass(frozen=True)
class IAT(Adversarial):
    """IAT: half the loss on mixed clean images, half on mixed adversarial ones (Lamb et al. 2022).

    Each half draws its own ratio from Beta(alpha, alpha), its own pairs and its own place once per
    batch; labels are mixed like the images. x' is made from the image before it is mixed. layers:
    submodules at whose output rows may be mixed (manifold mixup); the input always is one of the
    places. alpha: by default 1, or 2 with layers; 0 mixes nothing: 50/50 AT, which is
    Sum(Standard(), AT(steps=7), weights=(0.5, 0.5)). The halves pass through the network one after
    the other, each with its own batch statistics. Raises InputError for alpha < 0 and for layers
    that are not names; UnknownName in the first step for a layer that the network does not have.
    """

    steps: int = 7
    alpha: float | None = None
    layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.alpha is not None:
            check_factor("alpha", self.alpha, "1 for images, 2 for hidden layers, 0 mixes nothing")
        named = isinstance(self.layers, tuple) and all(
            isinstance(name, str) and name for name in self.layers
        )
        if not named:
            remedy = "write layers=('layer1', 'layer2')"
            raise InputError(f"layers = {self.layers!r}", "a tuple of names of submodules", remedy)
        super().__post_init__()

    @property
    def concentration(self) -> float:
        """alpha of the Beta distribution."""
        usual = 2.0 if self.layers else 1.0
        return usual if self.alpha is None else self.alpha

    @property
    def places(self) -> tuple[str, ...]:
        """Where rows may be mixed."""
        return (INPUT, *self.layers)

    @property
    def passes(self) -> int:
        return 2

    def prepare(self, model: nn.Module, batch: Batch) -> Batch:
        for name in self.layers:
            layer_of(model, name)
        ready = self.craft(model, batch)
        if not self.concentration:
            return ready
        clean, moved = (
            draw(batch, self.concentration, self.places, branch)
            for branch in ("clean", "adversarial")
        )
        ready = replace(
            ready,
            pairs=clean.pairs,
            drawn={
                "ratio": clean.ratio,
                "place": self._place(clean),
                "adv_pairs": moved.pairs,
                "adv_ratio": moved.ratio,
                "adv_place": self._place(moved),
            },
        )
        return ready.with_note(mixing_ratio=clean.ratio, adv_mixing_ratio=moved.ratio)

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        assert batch.adv is not None, "losses are read from a prepared batch"
        if batch.pairs is None:
            clean = cross_entropy(answers(model, batch.x), batch)
            return (clean + cross_entropy(answers(model, batch.adv), batch)) / 2
        had = batch.drawn
        first = self._mix(batch.pairs, had["ratio"], had["place"])
        second = self._mix(had["adv_pairs"], had["adv_ratio"], had["adv_place"])
        clean = first.cross_entropy(first.logits(model, batch.x), batch)
        return (clean + second.cross_entropy(second.logits(model, batch.adv), batch)) / 2

    def _place(self, mix: Mix) -> Tensor:
        """(B,) the number of the place, on the CPU, where it is read."""
        return torch.full((len(mix.pairs),), self.places.index(mix.layer))

    def _mix(self, pairs: Tensor, ratio: Tensor, place: Tensor) -> Mix:
        return Mix(pairs, ratio, self.places[int(place[0])])
