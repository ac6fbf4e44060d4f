"""Regional attacks with the cross-entropy sign (Ozbulak, Peck, De Neve, Goossens, Saeys and Van
Messem 2020), the threats they need and the distances they are judged by.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from torchproof.attack.cases import Cases, Found, Point
from torchproof.attack.combine import Attack
from torchproof.attack.masks import Mask
from torchproof.attack.oracle import Oracle, Plain
from torchproof.attack.pgd import PGD
from torchproof.attack.run import Run
from torchproof.attack.starts import Zero
from torchproof.attack.untouched import home, untouched
from torchproof.core import keys
from torchproof.core.errors import InputError
from torchproof.core.norms import Norm
from torchproof.core.objectives import Classification, Goal
from torchproof.core.sets import Set
from torchproof.core.sites import Model, Site
from torchproof.core.threats import BOUNDED, Region, Threat

STEP = 1 / 255  # the authors' alpha, 0.0039


@dataclass(frozen=True)
class Regions:
    """`threat`, but each image may change only where `mask` says, for example `Centre(90)`.

    Raises InputError unless the threat perturbs each input by itself.
    """

    threat: Threat
    mask: Mask
    offers: ClassVar[frozenset[str]] = BOUNDED

    def __post_init__(self) -> None:
        if not isinstance(self.threat, Threat) or "image" not in self.threat.site.offers:
            given = f"regions of {self.threat!r}"
            remedy = "write Regions(Threat(Linf(), 1.0), Centre(90))"
            raise InputError(given, "a Threat that perturbs each input by itself", remedy)

    @property
    def site(self) -> Site:
        """That of the threat inside."""
        return self.threat.site

    @property
    def norm(self) -> Norm:
        """That of the threat inside."""
        return self.threat.norm

    def set(self, model: Model, x: Tensor) -> Set:
        """The threat's set, zero outside the mask that this model and these images give."""
        return Region(self.threat, self.mask(model, x)).set(model, x)

    def __str__(self) -> str:
        return f"{self.threat} in {self.mask}"


@dataclass(frozen=True)
class Towards(Classification):
    """-CE(z, target): a targeted loss, but any misclassification wins (Ozbulak et al. 2020)."""

    targeted: ClassVar[bool] = True

    def loss(self, out: Tensor, goal: Goal) -> Tensor:
        return -F.cross_entropy(out, goal.target, reduction="none")


def regional(
    threat: Threat | Region | Regions, steps: int = 250, alpha: float = STEP, targets: int = 1
) -> Attack:
    """Steps of the cross-entropy's sign towards a class, inside a region (Ozbulak et al. 2020).

    x' = clip(x - alpha L sign(grad CE(f(x), c))), from the image itself until it is misclassified;
    alpha in input units. The authors know no eps: that is the threat linf:1. In other norms the
    sign becomes the steepest step of length alpha. Deviation: c is the most likely wrong class
    (`targets` of them in turn); the authors draw it: pass targets=0 here and
    target=drawn_classes(...) in the call.
    """
    if not alpha > 0:
        raise InputError(f"alpha = {alpha!r}", "a number > 0, in input units", "write 1/255")
    ball = threat if isinstance(threat, Threat) else threat.threat
    search = PGD(steps, alpha / ball.eps, Zero())
    return Attack(threat, Towards(), search, targets=targets)


def drawn_classes(y: Tensor, classes: int, ids: Tensor, seed: int = 0) -> Tensor:
    """(N,) a class other than y for each example, uniform over the classes - 1 others."""
    if classes < 2:
        raise InputError(f"{classes} classes", "at least two", "there is no wrong class to draw")
    drawn = keys.integers(keys.mix(seed, "class", ids), 0, classes - 1, ())
    return drawn + (drawn >= y.cpu())


@dataclass(frozen=True)
class Judged:
    """Loss and gradient of `inner`, verdict and score of `judge`, another model's oracle: a search
    on one model that ends when another is fooled. The judge's forwards are counted.
    """

    inner: Oracle
    judge: Oracle

    def __call__(self, cases: Cases, delta: Any, gradient: bool, progress: Tensor) -> Point:
        point = self.inner(cases, delta, gradient, progress)
        at = delta if point.at is None else point.at
        seen = self.judge(cases, at, False, progress)
        cost = (point.cost[0] + seen.cost[0], point.cost[1] + seen.cost[1])
        return point._replace(won=seen.won, score=seen.score, cost=cost)


def until_fooled(attack: Attack, judge: Model) -> Callable[..., Found]:
    """`attack`, called as attacks are, on its model until `judge` (on the same device) is fooled:
    the authors' model-to-model transfer, which asks the target model after every step.
    """

    def run_until(
        model: Model, x: Tensor, y: Tensor, *, target: Tensor | None = None, run: Run = Run()
    ) -> Found:
        def wrap(oracle: Oracle) -> Oracle:
            seen = Plain(judge, attack.threat.site, attack.objective)
            return Judged(attack.wrap(oracle), seen)

        with untouched(judge, keys.seed_of(run.seed, "judge"), home(judge, x.device)):
            return replace(attack, wrap=wrap)(model, x, y, target=target, run=run)

    return run_until


@dataclass(frozen=True)
class Lengths:
    """Of the perturbations of some pixels, (N,) each: l0, the share of these pixels that changed
    in any channel; l2 and linf in input units.
    """

    l0: Tensor
    l2: Tensor
    linf: Tensor


@dataclass(frozen=True)
class Account:
    """`share` (N,): of the image's pixels that belong to the region; and the lengths there, in the
    rest (all zero for an attack that keeps to its region) and in the whole image.
    """

    share: Tensor
    inside: Lengths
    outside: Lengths
    image: Lengths


def account(delta: Tensor, mask: Tensor) -> Account:
    """L0, L2 and Linf of perturbations delta (N, C, H, W) inside and outside the mask.

    mask: bool, broadcastable to delta; a pixel belongs to the region where any channel does. Where
    a part has no pixels its lengths are 0.
    """
    open_ = mask.to(delta.device, torch.bool).expand_as(delta)
    pixels = open_.any(1)
    every = torch.ones_like(pixels)
    return Account(
        share=pixels.flatten(1).double().mean(1),
        inside=_lengths(delta * open_, pixels),
        outside=_lengths(delta * ~open_, ~open_.all(1)),
        image=_lengths(delta, every),
    )


def _lengths(delta: Tensor, pixels: Tensor) -> Lengths:
    flat = delta.flatten(1).double()
    changed = (delta != 0).any(1).flatten(1).double().sum(1)
    count = pixels.flatten(1).sum(1).clamp_min(1)
    return Lengths(changed / count, flat.norm(dim=1), flat.abs().amax(1))
