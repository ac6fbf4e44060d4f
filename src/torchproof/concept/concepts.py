"""One concept in one layer of a network: how well its images are told from others, which classes
depend on it, which images show it most.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from torchproof.concept.a_cav import Margin
from torchproof.concept.activations import BATCH, activations
from torchproof.concept.cav import Cav, average
from torchproof.concept.draws import (
    ADVERSARIAL,
    PLAIN,
    Examined,
    Halves,
    apart_of,
    draw,
    draw_random,
    examine,
    ways,
)
from torchproof.concept.quality import cautions
from torchproof.concept.reference import Reference, references
from torchproof.concept.tcav import Tcav, tcav
from torchproof.core.errors import InputError

FEW = 20  # held-out images of either side, below which shares are coarse


@dataclass(frozen=True)
class Plan:
    """draws: of n random images each (None: as many as concept images); margin, decay: of A-CAV;
    noise: Gram-Schmidt random concepts added to its random images; group: draws per average.
    """

    draws: int = 10
    n: int | None = None
    held_out: float = 1 / 3
    margin: Margin = Margin()
    decay: float = 0.01
    noise: int = 0
    group: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("draws", 2), ("noise", 0), ("group", 1)):
            if getattr(self, name) < least:
                given = f"{name} = {getattr(self, name)}"
                raise InputError(given, f"a whole number >= {least}", "choose a larger one")


@dataclass(frozen=True)
class Shown:
    """An image by its row, and its mean score, in root mean squares of the layer's activations."""

    row: int
    score: float


@dataclass(frozen=True)
class Concept:
    """What `concepts` found. width: entries of the layer's answer; n_*: images trained with (those
    at random: per draw) and held out; unit: root mean square of the activations; ways: plain CAV,
    logistic regression, A-CAV; tcav: of the plain vectors (Kim et al. 2018), tcav_adversarial of
    those of A-CAV; most, least: images by the averaged A-CAV, the strongest first; vector, bias: of
    that, for activations divided by `unit`; captum: its TCAV of the same classes, if asked for.
    """

    layer: str
    width: int
    n_concept: int
    n_concept_held: int
    n_random: int
    n_random_held: int
    unit: float
    plan: Plan
    ways: tuple[Examined, ...]
    tcav: tuple[Tcav, ...]
    tcav_adversarial: tuple[Tcav, ...]
    most: tuple[Shown, ...]
    least: tuple[Shown, ...]
    vector: tuple[float, ...]
    bias: float
    cautions: tuple[str, ...]
    captum: tuple[Reference, ...] = ()


def concepts(
    model: nn.Module, layer: str, concept: Tensor, random: Tensor, images: Tensor,
    labels: Tensor, targets: Sequence[int] = (), plan: Plan | None = None, shown: int = 8,
    batch_size: int = BATCH, captum: bool = False,
) -> Concept:  # fmt: skip
    """The concept of images `concept` (N, C, H, W) against `random` (M, C, H, W) in this layer.

    images, labels: of the network's own data, which are ranked, and those of each class of
    `targets` asked for its TCAV score; captum: ask that package too. Raises InputError for too few
    images, or for a target without any; and what `activations`, `tcav` and `captum_tcav` raise.
    """
    plan = Plan() if plan is None else plan
    missing = [k for k in targets if not bool((labels == k).any())]
    if missing:
        given = f"target class {missing[0]}, of which there is no image"
        raise InputError(given, "classes of the images given", "choose another class")
    ours, others = (activations(model, x, layer, batch_size) for x in (concept, random))
    halves = Halves.of(ours, others, plan.held_out, plan.seed)
    n = min(len(halves.concept), len(halves.pool)) if plan.n is None else plan.n
    made = draw(halves, ways(plan.margin, plan.decay, plan.noise), plan.draws, n, plan.seed)
    apart = draw_random(halves, plan.draws, n, plan.seed)
    asked = [(images[labels == k], k) for k in targets]
    scores = {
        name: tuple(
            tcav(model, x, k, layer, made[name], apart, len(targets), batch_size) for x, k in asked
        )
        for name in (PLAIN, ADVERSARIAL)
    }
    theirs = references(
        model, layer, (concept, random), halves, made[PLAIN], asked, n, plan.seed
    ) if captum else ()  # fmt: skip
    found, whole = examine(halves, made, plan.group), average(made[ADVERSARIAL])
    most, least = ranked(model, layer, images, whole, halves.unit, shown, batch_size)
    return Concept(
        layer=layer, width=ours.shape[1], n_concept=len(halves.concept),
        n_concept_held=len(halves.concept_held), n_random=n,
        n_random_held=len(halves.pool_held), unit=halves.unit, plan=plan, ways=found,
        tcav=scores[PLAIN], tcav_adversarial=scores[ADVERSARIAL], most=most, least=least,
        vector=tuple(whole.vector.tolist()), bias=whole.bias,
        cautions=(*_said(found, halves, scores[PLAIN]), *_drawn(halves, made, n)), captum=theirs,
    )  # fmt: skip


def ranked(
    model: nn.Module, layer: str, x: Tensor, cav: Cav, unit: float, shown: int,
    batch_size: int = BATCH,
) -> tuple[tuple[Shown, ...], tuple[Shown, ...]]:  # fmt: skip
    """The images x (N, C, H, W) with the largest scores and those with the smallest, the strongest
    first; at most `shown` of either, and none in both.
    """
    parts = [activations(model, part, layer, batch_size) for part in torch.split(x, batch_size)]
    score = torch.cat([cav.score(part / unit) for part in parts])
    order = [Shown(i, float(score[i])) for i in score.argsort(descending=True).tolist()]
    count = min(shown, len(order) // 2)
    return tuple(order[:count]), tuple(order[: -count - 1 : -1])


def _said(found: Sequence[Examined], halves: Halves, scores: Sequence[Tcav]) -> tuple[str, ...]:
    told = [line for way in found for line in cautions(way.name, way.spread)]
    for name, rows in (("concept", halves.concept_held), ("random", halves.pool_held)):
        if len(rows) < FEW:
            told.append(f"only {len(rows)} {name} images are held out: shares are coarse")
    if scores and all(score in (0, 1) for one in scores for score in one.scores):
        told.append(
            "every TCAV score is 0 or 1: all images of a class agree, as in a layer after which "
            "the network is linear, so that a score says no more than the sign of one product"
        )
    return tuple(told)


def _drawn(halves: Halves, made: Mapping[str, Sequence[Cav]], n: int) -> tuple[str, ...]:
    """What the draws could not be, or did not come to."""
    told, fewer = [], apart_of(halves, n)
    if fewer < n:
        told.append(
            f"random vectors are of {fewer} images a side, those of the concept of {n} random ones:"
            f" the {len(halves.pool)} random images must do for both sides, so TCAV's p compares "
            "sets of different sizes"
        )
    for name, cavs in made.items():
        unfinished = sum(not one.converged for one in cavs)
        if unfinished:
            told.append(
                f"{name}: L-BFGS did not converge in {unfinished} of {len(cavs)} draws, so these "
                "vectors are not the minimum that they stand for"
            )
    return tuple(told)
