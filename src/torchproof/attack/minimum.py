"""Minimum-norm attacks: how far is the nearest adversarial input?

Any search can be asked: `MinimumNorm(attack)` runs it with endless patience behind an oracle that
ranks winning points by their length, so that the engine keeps the nearest win over all targets and
restarts. Searches made for the purpose: FAB, DDN, FMN, Carlini and Wagner's, DeepFool.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from torchproof.attack.cases import Cases, Found, Point
from torchproof.attack.combine import Attack
from torchproof.attack.oracle import Oracle, Plain
from torchproof.attack.run import Run
from torchproof.attack.untouched import home, precision, untouched
from torchproof.core import keys
from torchproof.core.errors import InputError
from torchproof.core.norms import Norm, name_of
from torchproof.core.objectives import hard
from torchproof.core.sets import Ball, Set
from torchproof.core.sites import Input, Model
from torchproof.core.values import put, take


@dataclass(frozen=True)
class Unlimited:
    """Every input of the box [low, high] is allowed; `norm` measures how far it is.

    The threat of a minimum-norm attack. `unit` is the length, in input units, of a step of length 1
    and of a random start at full distance.
    """

    norm: Norm
    low: float = 0.0
    high: float = 1.0
    unit: float = 1.0
    site: Input = field(default_factory=Input)
    offers: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        if not isinstance(self.norm, Norm):
            given = f"norm {self.norm!r}"
            raise InputError(given, "a Norm such as L2()", "pass Linf(), L2(), L1() or L0()")
        if not self.low < self.high:
            given, remedy = f"box [{self.low}, {self.high}]", "pass the range of valid inputs"
            raise InputError(given, "low < high", remedy)
        if not 0 < self.unit < math.inf:
            given = f"unit = {self.unit!r}"
            raise InputError(given, "a finite number > 0", "pass a length in input units")

    def set(self, model: Model, x: Tensor) -> Set:
        """All perturbations of x (B, C, H, W) that stay in the box, one row per example."""
        unit = x.new_full((len(x),), self.unit)
        boundless = torch.full_like(unit, torch.inf)
        return Ball.of(self.norm, boundless, *self.site.box(x, self.low, self.high), unit)

    def __str__(self) -> str:
        return name_of(self.norm)


@dataclass(frozen=True)
class ByLength:
    """Scores a winning point by minus its length, so that the nearest of all wins is kept."""

    inner: Oracle

    def __call__(self, cases: Cases, delta: Any, gradient: bool, progress: Tensor) -> Point:
        point = self.inner(cases, delta, gradient, progress)
        at: Any = delta if point.at is None else point.at
        ball: Any = cases.set
        return point._replace(score=torch.where(point.won, -ball.length(at), point.score))


@dataclass(frozen=True)
class Distances:
    """How far the nearest adversarial inputs are that were found for N examples.

    distance: (N,) lengths in input units (a count for L0), 0 where the clean input is adversarial
    already, inf where nothing was found; found: as from any attack, its score being -distance where
    it was lost; the perturbations are found.value.
    """

    found: Found
    distance: Tensor


@dataclass(frozen=True)
class MinimumNorm:
    """`attack` as a minimum-norm attack: the nearest win over its targets, restarts and steps.

    Inputs that are adversarial as they are (one forward each) have distance 0 and are not attacked.
    A threat with a radius limits the search to it: what lies beyond counts as not found. Raises
    InputError for an attack on anything but single inputs.
    """

    attack: Attack

    def __post_init__(self) -> None:
        given = f"{type(self.attack).__name__}"
        if not isinstance(self.attack, Attack):
            remedy = "pass one attack, such as fmn(Unlimited(L2()))"
            raise InputError(f"a minimum-norm attack by a {given}", "an Attack", remedy)
        if "image" not in self.attack.threat.site.offers:
            site = type(self.attack.threat.site).__name__
            remedy = "attack weights, layers and universal perturbations within a radius"
            raise InputError(f"distances at the site {site}", "a threat to single inputs", remedy)

    def __call__(
        self,
        model: Model,
        x: Tensor,
        y: Tensor,
        *,
        target: Tensor | None = None,
        run: Run = Run(),
    ) -> Distances:
        """Attacks x (N, C, H, W) with labels y (N,); leaves the model as it was.

        target, run: as for any attack; `run.patience` does not matter. Raises InputError,
        ModelError.
        """
        if run.last:
            remedy = "leave run.last out"
            raise InputError("a minimum-norm run for its last iterate", "the nearest win", remedy)
        if len(y) != len(x):
            given = f"{len(x)} images and {len(y)} labels"
            raise InputError(given, "one label per image", "cut both to the same examples")
        total = self._clean(model, x, y, target, run)
        _tell(run, total, total.lost.nonzero()[:, 0])
        rows = (~total.lost).nonzero()[:, 0]
        if len(rows) and not run.stop():
            self._search(model, x, y, target, run, total, rows)
        distance = torch.where(total.lost, -total.score, torch.inf)
        return Distances(total, distance)

    def _clean(self, model: Model, x: Tensor, y: Tensor, target: Tensor | None, run: Run) -> Found:
        """One question about every clean input; done are those that need no perturbation."""
        x = x.detach()
        kind = torch.promote_types(precision(model) or x.dtype, torch.float32)
        total = Found.empty(len(x), x[:0].to(kind), x.device)
        device = home(model, x.device)
        with untouched(model, keys.seed_of(run.seed, "clean"), device):
            for start in range(0, len(x), run.slots):
                rows = torch.arange(start, min(start + run.slots, len(x)))
                key = keys.mix(run.seed, "clean", rows if run.ids is None else run.ids[rows])
                inputs = x[rows].to(device, kind), y[rows].to(device)
                aim = None if target is None else target[rows]
                point = self._ask(model, *inputs, aim, key.to(device))
                won = point.won.cpu()
                total.lost[rows], total.done[rows] = won, won
                total.score[rows] = torch.where(won, -0.0, point.score.cpu()).to(total.score)
                total.spent[rows] += torch.tensor(point.cost)
        return total

    def _ask(self, model: Model, x: Tensor, y: Tensor, target: Tensor | None, key: Tensor) -> Point:
        """What the attack's own oracle says of clean inputs."""
        attack = self.attack
        # a verdict that needs no target may still come with a loss that reads one
        aim = hard(y) if target is None else target.to(x.device)
        cases = Cases(x, y, aim, attack.threat.set(model, x), key)
        oracle = attack.wrap(Plain(model, attack.threat.site, attack.objective))
        return oracle(cases, torch.zeros_like(x), False, x.new_zeros(len(x)))

    def _search(
        self, model: Model, x: Tensor, y: Tensor, target: Tensor | None, run: Run,
        total: Found, rows: Tensor,
    ) -> None:  # fmt: skip
        """The attack on the rows that the clean input left; writes into `total`."""
        told = torch.zeros(len(rows), dtype=torch.bool)

        def landed(part: Found, done: list[int]) -> None:
            at = torch.tensor(done)
            _write(total, rows[at], take(part, at))
            told[at] = True
            _tell(run, total, rows[at])

        ids = rows if run.ids is None else run.ids[rows]
        quiet = replace(run, patience=math.inf, ids=ids, on_done=landed)
        attack = replace(self.attack, wrap=ranked(self.attack.wrap))
        aim = None if target is None else target[rows]
        part = attack(model, x[rows], y[rows], target=aim, run=quiet)
        left = (~told).nonzero()[:, 0]  # where the run was stopped
        _write(total, rows[left], take(part, left))


def ranked(wrap: Callable[[Oracle], Oracle]) -> Callable[[Oracle], Oracle]:
    """The wrapper with `ByLength` around it."""
    return lambda oracle: ByLength(wrap(oracle))


def _write(total: Found, rows: Tensor, part: Found) -> None:
    """The results of some rows, on top of what asking about the clean input cost."""
    cost = total.spent[rows]
    put(total, rows, part)
    total.spent[rows] += cost


def _tell(run: Run, found: Found, rows: Tensor) -> None:
    if run.on_done is not None and len(rows):
        run.on_done(found, rows.tolist())
