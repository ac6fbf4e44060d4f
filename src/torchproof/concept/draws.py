"""Concept classifiers of several draws of random images: what of a vector is the concept's, and
what the draw's?
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from torchproof.concept.a_cav import Margin, a_cav
from torchproof.concept.cav import LEAST, Cav, average, cav, unit_of
from torchproof.concept.gram_schmidt import random_concepts
from torchproof.concept.quality import SUSPECT, Quality, Spread, margin_of, quality, spread
from torchproof.core import keys
from torchproof.core.errors import InputError

Way = Callable[[Tensor, Tensor, int], Cav]
"""From activations of the concept (N, D), those of random images (M, D) and a seed to a vector."""

PLAIN, LOGISTIC, ADVERSARIAL = "CAV", "CAV, logistic", "A-CAV"


@dataclass(frozen=True, eq=False)
class Halves:
    """Activations, divided by `unit`, of the images trained with and of those held out, of the
    concept (N, D) and of the pool of random images (M, D); *_rows (N,), (M,): which of the images
    given are trained with.
    """

    concept: Tensor
    pool: Tensor
    concept_held: Tensor
    pool_held: Tensor
    unit: float
    concept_rows: Tensor
    pool_rows: Tensor

    @classmethod
    def of(cls, concept: Tensor, pool: Tensor, held_out: float = 1 / 3, seed: int = 0) -> Halves:
        """A share `held_out` of either side, drawn by the seed; the unit is the root mean square of
        what is left. Raises InputError for a share or numbers that leave too few.
        """
        if not 0 < held_out < 1:
            raise InputError(f"held_out = {held_out}", "a share in (0, 1)", "a third is usual")
        kept, parts = [], []
        for name, rows in (("concept", concept), ("random", pool)):
            count = max(1, round(held_out * len(rows)))
            if len(rows) - count < LEAST:
                given = f"{len(rows)} {name} images"
                raise InputError(given, f"at least {LEAST + 1}", "give more images")
            order = keys.permutation(len(rows), seed, name)
            kept.append(order[count:])
            parts.append((rows[order[count:]].double(), rows[order[:count]].double()))
        (up, up_held), (down, down_held) = parts
        unit = unit_of(up, down)
        return cls(up / unit, down / unit, up_held / unit, down_held / unit, unit, *kept)

    def drawn(self, n: int, *key: int | str) -> Tensor:
        """n rows of the pool without repetition; raises InputError for more than it has."""
        return self.pool[self._chosen(n, *key)]

    def drawn_images(self, n: int, *key: int | str) -> Tensor:
        """(n,) which of the random images given those rows are of."""
        return self.pool_rows[self._chosen(n, *key)]

    def _chosen(self, n: int, *key: int | str) -> Tensor:
        if not LEAST <= n <= len(self.pool):
            given = f"{n} random images per draw"
            expected = f"{LEAST} to {len(self.pool)}, the pool without what is held out"
            raise InputError(given, expected, "ask for fewer, or give more images")
        return keys.permutation(len(self.pool), *key, "draw")[:n]


@dataclass(frozen=True)
class Examined:
    """One way to a vector over draws. each: of every draw; averaged: of the means over groups of
    draws (Soni et al. 2020); margins: least distance of a training image of the concept from the
    boundary, in root mean squares of the activations.
    """

    name: str
    each: tuple[Quality, ...]
    averaged: tuple[Quality, ...]
    margins: tuple[float, ...]

    @property
    def spread(self) -> Spread:
        """Mean and deviation over the draws."""
        return spread(self.each)

    @property
    def unreliable(self) -> bool:
        """Does it mark most random images, so that its recall says nothing?"""
        return self.spread.false_positives > SUSPECT


def ways(margin: Margin, decay: float = 0.01, noise: int = 0) -> dict[str, Way]:
    """The plain vector, that of logistic regression, and the adversarial one; noise: Gram-Schmidt
    random concepts added to the random images of the last.
    """
    return {
        PLAIN: lambda concept, random, seed: cav(concept, random, seed=seed),
        LOGISTIC: partial(_adversarial, margin=Margin(0.0), decay=decay, noise=0),
        ADVERSARIAL: partial(_adversarial, margin=margin, decay=decay, noise=noise),
    }


def _adversarial(
    concept: Tensor, random: Tensor, seed: int, margin: Margin, decay: float, noise: int
) -> Cav:
    if noise:
        random = torch.cat([random, random_concepts(concept, noise, seed)])
    return a_cav(concept, random, margin, decay)


def draw(
    halves: Halves, table: Mapping[str, Way], draws: int, n: int | None = None, seed: int = 0
) -> dict[str, list[Cav]]:
    """Vectors by way, one for each draw of n random images (as many as the concept has); all ways
    see the same draws. Vectors and biases are in units of `halves.unit`.
    """
    n = len(halves.concept) if n is None else n
    made: dict[str, list[Cav]] = {name: [] for name in table}
    for number in range(draws):
        random = halves.drawn(n, seed, number)
        for name, way in table.items():
            made[name].append(way(halves.concept, random, keys.seed_of(seed, number)))
    return made


def apart_of(halves: Halves, n: int | None = None) -> int:
    """How many images each of two random sets has where n are asked for: at most half of the pool,
    since they have none in common.
    """
    n = len(halves.concept) if n is None else n
    return max(LEAST, min(n, len(halves.pool) // 2))


def draw_random(halves: Halves, draws: int, n: int | None = None, seed: int = 0) -> list[Cav]:
    """Plain vectors between two sets of n random images that have none in common: what vectors look
    like without a concept. n: `apart_of` them are taken.
    """
    n = apart_of(halves, n)
    made = []
    for number in range(draws):
        rows = halves.drawn(2 * n, seed, "random", number)
        made.append(cav(rows[:n], rows[n:], seed=keys.seed_of(seed, "random", number)))
    return made


def examine(
    halves: Halves, made: Mapping[str, Sequence[Cav]], group: int = 5
) -> tuple[Examined, ...]:
    """The quality on held-out images of every vector, and of the averages over each `group` vectors
    (over all, where there are fewer).
    """
    found = []
    for name, cavs in made.items():
        size = min(group, len(cavs))
        whole = range(0, len(cavs) - size + 1, size)
        means = [average(cavs[first : first + size]) for first in whole]
        each, averaged = (
            tuple(quality(one, halves.concept_held, halves.pool_held) for one in several)
            for several in (cavs, means)
        )
        margins = tuple(margin_of(one, halves.concept) for one in cavs)
        found.append(Examined(name, each, averaged, margins))
    return tuple(found)
