"""Prunability (Kuhn et al. 2021): the smallest fraction of the weights that can be kept without
hurting the training loss. Smaller is simpler, and is taken to generalise better.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.attack.untouched import untouched
from torchproof.core import keys
from torchproof.core.checks import check, check_weights
from torchproof.core.errors import InputError, unknown
from torchproof.core.sites import Weights
from torchproof.diagnose.fold import folded
from torchproof.diagnose.weight_balls import matrices

By = Literal["magnitude", "normalised", "random", "perturbation"]
Named = Mapping[str, Tensor]
# Below this cross-entropy a relative tolerance is smaller than what the last steps of training
# change; above it, networks are hardly trained to the end.
LOW, HIGH = 0.05, 0.5


@dataclass(frozen=True)
class Prunability:
    """How much of a network can be left out.

    fraction: mu, the least of `fractions` at which the loss is at most (1 + beta) loss + slack;
    steady: the least from which on that holds at all larger ones too, so that a gap between the two
    says that the curve is not monotone; loss, accuracy: of the whole network on the training data;
    fractions (G,), losses (G,): the curve, kept fraction and mean cross-entropy in nats over the
    draws; spread (G,): standard deviation over the draws, 0 for one; by: what is left out;
    parameters: how many weights there are to leave out; warnings: what makes the figure hard to
    read.
    """

    fraction: float
    steady: float
    loss: float
    accuracy: float
    beta: float
    slack: float
    by: By
    draws: int
    n: int
    parameters: int
    fractions: tuple[float, ...]
    losses: tuple[float, ...]
    spread: tuple[float, ...]
    warnings: tuple[str, ...] = ()

    @property
    def limit(self) -> float:
        """The largest loss that counts as unhurt."""
        return self.loss * (1 + self.beta) + self.slack

    def at(self, beta: float, slack: float = 0.0) -> Prunability:
        """The same curve read with another tolerance."""
        _check_tolerance(beta, slack)
        limit = self.loss * (1 + beta) + slack
        fraction, steady = _read(self.fractions, self.losses, limit)
        return dataclasses.replace(
            self, fraction=fraction, steady=steady, beta=beta, slack=slack,
            warnings=_warned(self.loss, slack),
        )  # fmt: skip


@dataclass(frozen=True)
class Prunings:
    """One network by several rules, each a curve of its own."""

    curves: tuple[Prunability, ...]


Shift = Callable[[int], dict[str, Tensor]]
"""How many weights stay -> what to add to them all."""


class Rule(ABC):
    """What the weights become when some of them are kept. `random`: does that take a draw?"""

    random: ClassVar[bool] = False

    @abstractmethod
    def shift(self, weights: Named, seed: int) -> Shift:
        """For weights by name; seed: of the draw."""


def _flat(weights: Named) -> Tensor:
    return torch.cat([w.flatten() for w in weights.values()])


def _unflat(vector: Tensor, weights: Named) -> dict[str, Tensor]:
    parts = torch.split(vector, [w.numel() for w in weights.values()])
    return {n: p.view_as(w) for (n, w), p in zip(weights.items(), parts, strict=True)}


def _without(weights: Named, order: Tensor) -> Shift:
    """Leaves the first of the order (D,) as they are, and zeroes the rest."""
    minus = -_flat(weights)

    def shift(keep: int) -> dict[str, Tensor]:
        vector = minus.clone()
        vector[order[:keep]] = 0.0
        return _unflat(vector, weights)

    return shift


class Magnitude(Rule):
    """One-shot global magnitude pruning: the largest |w| stay, the earlier of equal ones."""

    def sizes(self, weights: Named) -> Tensor:
        return _flat(weights).abs()

    def shift(self, weights: Named, seed: int) -> Shift:
        return _without(weights, self.sizes(weights).argsort(descending=True, stable=True))


class Normalised(Magnitude):
    """The largest |w| / rms(w of its tensor) stay: the same for a ReLU network with one layer
    multiplied and the next divided by a number, which plain magnitude is not.
    """

    def sizes(self, weights: Named) -> Tensor:
        parts = []
        for w in weights.values():
            rms = w.square().mean().sqrt()
            parts.append((w.abs() / rms.clamp_min(torch.finfo(w.dtype).tiny)).flatten())
        return torch.cat(parts)


class Random(Rule):
    """Weights drawn evenly stay; where more stay, the same ones are among them."""

    random: ClassVar[bool] = True

    def shift(self, weights: Named, seed: int) -> Shift:
        count, first = sum(w.numel() for w in weights.values()), next(iter(weights.values()))
        return _without(weights, keys.permutation(count, seed).to(first.device))


class Perturbation(Rule):
    """No pruning: normal noise over all weights, as long as what magnitude pruning takes away."""

    random: ClassVar[bool] = True

    def shift(self, weights: Named, seed: int) -> Shift:
        pruned, whole = Magnitude().shift(weights, seed), _flat(weights)
        noise = keys.normal(keys.mix(seed), 0, tuple(whole.shape), dtype=torch.float64)[0]
        unit = (noise / noise.norm()).to(whole)
        return lambda keep: _unflat(unit * _flat(pruned(keep)).norm(), weights)


RULES: dict[By, Rule] = {
    "magnitude": Magnitude(),
    "normalised": Normalised(),
    "random": Random(),
    "perturbation": Perturbation(),
}


def prunability(
    model: nn.Module, x: Tensor, y: Tensor, *,
    by: By = "magnitude", beta: float = 0.1, slack: float = 0.1, grid: int = 50, draws: int = 3,
    weights: Weights | None = None, fold: bool = True, seed: int = 0, slots: int = 512,
) -> Prunability:  # fmt: skip
    """mu = inf{a : E[L_S(w')] <= L_S(w) (1 + beta) + slack, w' ~ phi(w, a)} (Kuhn et al. 2021),
    over a = 1/grid, 2/grid, ..., 1; L_S is the mean cross-entropy in eval mode.

    x (N, C, H, W) in [0, 1], y (N,): the training images and the labels it was trained with,
    without augmentation; by: "magnitude", "normalised", "random" or "perturbation"; slack: in nats,
    an addition of ours, 0 for the definition of the paper; draws: of the random ones; weights: what
    is counted and left out, by default tensors of more than one dimension of no normalisation
    layer, whatever their names (`matrices`), a shared one once; fold: merge batch normalisation
    into the layer in front of it first. Networks are to be compared at
    one training loss. beta = 0.1 is the paper's as we know it, its grid is not known. Nothing is
    retrained, and the model stays as it is. Raises InputError, ModelError, UnknownName.
    """
    check(x, y)
    check_weights(model)
    _check_tolerance(beta, slack)
    if by not in RULES:
        raise unknown("pruning", by, RULES)
    if grid < 2 or draws < 1:
        given = f"grid = {grid}, draws = {draws}"
        raise InputError(given, "grid >= 2 and draws >= 1", "50 and 3 are usual")
    left: tuple[str, ...] = ()
    if fold:
        merged = folded(model, x[:2])
        model, left = merged.model, merged.left
    weights = weights or Weights(matrices(model))
    rule, origin = RULES[by], weights.origin(model, x)
    named = {n: w[0] for n, w in origin.items()}
    count = sum(w.numel() for w in named.values())
    zero = {n: torch.zeros_like(w) for n, w in named.items()}
    loss, accuracy = _judged(model, weights, zero, x, y, slots)
    rounds = draws if rule.random else 1
    shifts = [rule.shift(named, keys.seed_of(seed, by, d)) for d in range(rounds)]
    fractions, losses, spread = [], [], []
    for step in range(1, grid + 1):
        keep = math.ceil(count * step / grid)
        each = [loss]  # with everything kept there is nothing to draw
        if step < grid:
            each = [_judged(model, weights, shift(keep), x, y, slots)[0] for shift in shifts]
        fractions.append(step / grid)
        losses.append(statistics.fmean(each))
        spread.append(statistics.stdev(each) if len(each) > 1 else 0.0)
    fraction, steady = _read(fractions, losses, loss * (1 + beta) + slack)
    warnings = _warned(loss, slack) + (
        (f"batch normalisation left in place: {', '.join(left)}",) if left else ()
    )
    return Prunability(
        fraction, steady, loss, accuracy, beta, slack, by, rounds, len(x), count,
        tuple(fractions), tuple(losses), tuple(spread), warnings,
    )  # fmt: skip


def _check_tolerance(beta: float, slack: float) -> None:
    if not (0 <= beta < math.inf and 0 <= slack < math.inf):
        given = f"beta = {beta!r}, slack = {slack!r}"
        raise InputError(given, "numbers >= 0", "beta=0.1, slack=0.1 are usual")


def _read(fractions: Sequence[float], losses: Sequence[float], limit: float) -> tuple[float, float]:
    """The least fraction within the limit, and the least from which on all are."""
    fits = [value <= limit for value in losses]
    first = fits.index(True)
    last = max((i for i, fit in enumerate(fits) if not fit), default=-1)
    return fractions[first], fractions[last + 1]


def _warned(loss: float, slack: float) -> tuple[str, ...]:
    found = []
    if slack == 0 and loss < LOW:
        found.append(f"a purely relative tolerance at a loss of {loss:.3g} nats measures noise")
    if loss > HIGH:
        found.append(f"a loss of {loss:.3g} nats: are these the images it was trained on, to the "
                     "end?")  # fmt: skip
    return tuple(found)


@torch.no_grad()
def _judged(
    model: nn.Module, site: Weights, shift: Named, x: Tensor, y: Tensor, slots: int
) -> tuple[float, float]:
    """Mean cross-entropy, nats, and accuracy with the weights moved by `shift`."""
    delta = {name: d[None] for name, d in shift.items()}
    total, right = 0.0, 0
    with untouched(model, 0, x.device):
        for start in range(0, len(x), slots):
            rows = slice(start, start + slots)
            logits = site.outputs(model, x[rows], delta)
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            total += float(F.cross_entropy(logits, y[rows], reduction="sum"))
            right += int((logits.argmax(1) == y[rows]).sum())
    return total / len(x), right / len(x)
