"""Denoisers in front of a fixed classifier, guided by pixels or by the classifier: HGD (Liao,
Liang, Dong, Pang, Hu and Zhu 2018).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from torchproof.attack.attack_set import EPS, AttackSet, Way
from torchproof.attack.untouched import untouched
from torchproof.core import keys
from torchproof.core.errors import ModelError
from torchproof.train.folder import digest
from torchproof.train.method import Batch, Method, cross_entropy
from torchproof.train.mixup import layer_of


class Halves(NamedTuple):
    """What a purified network is made of; `before` is what both halves see x through."""

    denoiser: nn.Module
    classifier: nn.Module
    before: Any


def halves(model: nn.Module) -> Halves:
    """The parts `denoiser` and `classifier` of a purified network, which may stand behind its
    normalisation.

    Raises ModelError for any other network, and for a classifier that would be trained too.
    """
    whole = getattr(model, "net", model)
    denoiser, classifier = (getattr(whole, name, None) for name in ("denoiser", "classifier"))
    if not isinstance(denoiser, nn.Module) or not isinstance(classifier, nn.Module):
        remedy = "train model='purified(...)' with a teacher, or torchproof.nn.Purified(...)"
        raise ModelError(
            f"a {type(whole).__name__} to denoise with", "a denoiser and a classifier", remedy
        )
    found = Halves(denoiser, classifier, getattr(model, "normalise", nn.Identity()))
    moving = any(m.training for m in found.classifier.modules())
    if moving or any(p.requires_grad for p in found.classifier.parameters()):
        raise ModelError(
            "a classifier in training behind a denoiser",
            "one in eval mode whose weights take no gradients",
            "keep both in torchproof.nn.Purified, which sees to that",
        )
    return found


@dataclass(frozen=True)
class Guided(Method):
    """Methods that train D on pairs of an image x and an attacked copy x*, made anew at every step.

    eps: what x* may be away, drawn uniformly from these (input units); sources: networks that x* is
    made on, by name, by default the classifier itself; ways: see `AttackSet`, whose default has
    unattacked and noisy images among them, without which clean accuracy suffers. A run is the same
    run as long as the sources' weights are. Labels are not asked for, but by CGD.

    Which checkpoint is best cannot be seen from clean accuracy, where a fresh denoiser that changes
    nothing is hard to beat: train with held_out=0. Raises InputError for an attack set that makes
    no sense, ModelError in the first step for a network that is no denoiser and classifier.
    """

    eps: tuple[float, ...] = EPS
    sources: Mapping[str, nn.Module] = field(default_factory=dict, repr=False)
    ways: tuple[Way, ...] | None = None
    weights: tuple[str, ...] = field(init=False, default=())
    labelled: ClassVar[bool] = False

    def __post_init__(self) -> None:
        digests = [f"{n} {digest(m.state_dict())}" for n, m in self.sources.items()]
        object.__setattr__(self, "weights", tuple(digests))
        names: Mapping[str, Any] = self.sources if self.sources else {"classifier": _nobody}
        AttackSet(names, self.eps, self.ways)  # what does not fit is said now

    def prepare(self, model: nn.Module, batch: Batch) -> Batch:
        parts = halves(model)
        own: dict[str, Any] = {"classifier": lambda x: parts.classifier(parts.before(x))}
        sources: Mapping[str, Any] = self.sources if self.sources else own
        with untouched(model, keys.seed_of(batch.seed, "clean"), batch.x.device):
            pairs = AttackSet(sources, self.eps, self.ways)(batch.x, batch.ids, batch.seed)
            with torch.no_grad():
                target = self.target(parts, parts.before(batch.x))
        forward, backward = (a + b for a, b in zip(batch.spent, pairs.spent, strict=True))
        ready = replace(batch, adv=pairs.adv, drawn={**batch.drawn, **target})
        return replace(ready, spent=(forward + len(batch.x) * bool(target), backward))

    def target(self, parts: Halves, x: Tensor) -> dict[str, Tensor]:
        """What the classifier makes of clean images x, as rows of `drawn`; x as the halves see it.
        Called without gradients, in eval mode.
        """
        return {}

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        assert batch.adv is not None, "losses are read from a prepared batch"
        parts = halves(model)
        return self.distance(parts, parts.denoiser(parts.before(batch.adv)), batch)

    @abstractmethod
    def distance(self, parts: Halves, x: Tensor, batch: Batch) -> Tensor:
        """(B,) losses of the denoised images x = D(x*)."""


def _nobody(x: Tensor) -> Tensor:
    raise AssertionError("stands for the classifier until there is one")


def _apart(found: Tensor, target: Tensor) -> Tensor:
    """(B,) the mean absolute difference, in at least float32."""
    wide = torch.promote_types(found.dtype, torch.float32)
    return (found.to(wide) - target.to(wide)).abs().flatten(1).mean(1)


@dataclass(frozen=True)
class PixelGuided(Guided):
    """The baseline guided by pixels: the mean of |D(x*) - x| (Liao et al. 2018, who call it PGD,
    after "pixel guided denoiser").

    Arguments: those of `Guided`.
    """

    def distance(self, parts: Halves, x: Tensor, batch: Batch) -> Tensor:
        return _apart(x, parts.before(batch.x))


@dataclass(frozen=True)
class LGD(Guided):
    """HGD guided by logits: the mean of |f(D(x*)) - f(x)| over the classifier's logits (Liao et al.
    2018).

    Asks for no labels. Arguments: those of `Guided`.
    """

    def target(self, parts: Halves, x: Tensor) -> dict[str, Tensor]:
        return {"logits": parts.classifier(x)}

    def distance(self, parts: Halves, x: Tensor, batch: Batch) -> Tensor:
        return _apart(parts.classifier(x), batch.drawn["logits"])


@dataclass(frozen=True)
class CGD(Guided):
    """HGD guided by classes: the cross-entropy of f(D(x*)) and the label, the only one that needs
    labels (Liao et al. 2018).

    Arguments: those of `Guided`.
    """

    labelled: ClassVar[bool] = True

    def distance(self, parts: Halves, x: Tensor, batch: Batch) -> Tensor:
        logits = parts.classifier(x)
        wide = torch.promote_types(logits.dtype, torch.float32)
        return cross_entropy(logits.to(wide), batch)


@dataclass(frozen=True)
class FGD(Guided):
    """HGD guided by features: the mean of |f_l(D(x*)) - f_l(x)| at a layer l of the classifier
    (Liao et al. 2018).

    Asks for no labels. layer: name of a submodule, whose last part is enough where it is unique; by
    default the last one that answers with maps (B, C, H, W), the paper's. The rest as in `Guided`.
    Raises UnknownName for a layer that is not there, ModelError for one that does not run once.
    """

    layer: str | None = None

    def target(self, parts: Halves, x: Tensor) -> dict[str, Tensor]:
        return {"features": features(parts.classifier, x, self.layer)}

    def distance(self, parts: Halves, x: Tensor, batch: Batch) -> Tensor:
        return _apart(features(parts.classifier, x, self.layer), batch.drawn["features"])


def features(classifier: nn.Module, x: Tensor, layer: str | None) -> Tensor:
    """(B, ...) what the layer answers to x, None for the last that answers with maps.

    Raises ModelError for a layer that does not run exactly once, or gives no tensor.
    """
    watched = classifier if layer is None else layer_of(classifier, layer)
    with _watching(watched, deep=layer is None) as seen:
        classifier(x)
    if layer is None:
        seen = [out for out in seen if isinstance(out, Tensor) and out.dim() == 4][-1:]
    if len(seen) != 1 or not isinstance(seen[0], Tensor):
        raise ModelError(
            f"layer {layer or 'with maps'!r}, which answers {len(seen)} times",
            "a layer of the classifier that runs once and answers with one tensor",
            "name another layer, such as a whole stage: FGD(layer='layer4')",
        )
    return seen[0]


@contextmanager
def _watching(module: nn.Module, deep: bool) -> Iterator[list[Any]]:
    """The answers of a module, or of all inside it as they come; no hook is left behind."""
    seen: list[Any] = []
    watched = [m for m in module.modules() if m is not module] if deep else [module]
    handles = [m.register_forward_hook(lambda _m, _i, out: seen.append(out)) for m in watched]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
