"""The binarization test: does an attack find adversarial examples that are there by construction?

Zimmermann, Brendel, Tramer and Carlini 2022. For each image a fresh problem of two classes is
built on the features of the defended model: points well inside the threat's set against points at
its very edge, told apart by a linear read-out without error. An attack that then does not reach the
edge's class is too weak for this model, whatever it finds elsewhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from torchproof.adaptive.attached import Attached
from torchproof.adaptive.binary_problem import Problems, Setting, build
from torchproof.adaptive.readout import Readout
from torchproof.attack.combine import Attack
from torchproof.attack.run import Run
from torchproof.attack.untouched import home, untouched
from torchproof.core import keys
from torchproof.core.errors import InputError
from torchproof.core.metrics import clopper_pearson
from torchproof.core.objectives import Margin, Objective
from torchproof.core.rejection import Heedless, Rejecting
from torchproof.core.selective import Selective
from torchproof.core.sites import Model
from torchproof.core.threats import AnyThreat
from torchproof.core.unaware import Unaware, logits_of

__all__ = ["Binarization", "Setting", "binarization"]

ENOUGH = 0.95  # of the problems: an attack that finds fewer is too weak
EASY = 0.5  # of the problems: where random points find as many, the test says nothing
_DRAWS = 5  # of a random model


@dataclass(frozen=True)
class Binarization:
    """problems: images for which a problem could be built, of `asked`; found: those that the attack
    solved; random: those that random points solved; readout: the layers that were read.
    """

    asked: int
    problems: int
    found: int
    random: int
    readout: str
    solved: tuple[bool | None, ...]

    @property
    def asr(self) -> float:
        """Attack success rate; 0 without any problem."""
        return self.found / max(self.problems, 1)

    @property
    def random_asr(self) -> float:
        """Share of the problems that random points solve; 0 without any problem."""
        return self.random / max(self.problems, 1)

    @property
    def asr_ci95(self) -> tuple[float, float]:
        """95 % interval of Clopper and Pearson for `asr`; (0, 1) without any problem."""
        return clopper_pearson(self.found, self.problems) if self.problems else (0.0, 1.0)

    @property
    def informative(self) -> bool:
        """Could problems be built, and are they too hard for random points?"""
        return self.problems >= max(3, 0.2 * self.asked) and self.random_asr < EASY

    @property
    def passes(self) -> bool:
        """Is a success rate of 95 % within the interval, or above?"""
        return self.asr_ci95[1] >= ENOUGH


def binarization(
    model: Model,
    x: Tensor,
    attack: Attack,
    *,
    on: Model | None = None,
    rule: Rejecting | None = None,
    random: bool = False,
    setting: Setting = Setting(),
    seed: int = 0,
) -> Binarization:
    """The test of `attack` against `model` on images x (N, C, H, W), in the threat of the attack.

    on: the model that the attack asks where it is another one with the same layers, such as a BPDA
    substitute; rule: how a model that may reject is judged: all points of a problem are then
    accepted ones; random: a model that answers differently each time is read five times at the
    image and its boundary points, and success is a majority of five.
    The attack's search, wrapper, restarts and targets stay; an objective that makes no sense for
    two classes gives way to the margin. Costs (999 + 1 + 200) forwards per image besides.
    Raises InputError for an attack on anything but single inputs.
    """
    _single(attack)
    return posed(model, x, attack.threat, rule, random, setting, seed).tried(attack, on)


@dataclass(frozen=True)
class Posed:
    """Problems on images x (N, C, H, W), of which `rows` have one; won: what random points solve.
    Several attacks may be tried on them.
    """

    model: Model
    readout: Readout
    x: Tensor
    rows: tuple[int, ...]
    weight: Tensor
    bias: Tensor
    rule: Rejecting | None
    draws: int
    seed: int
    won: int

    def tried(self, attack: Attack, on: Model | None = None) -> Binarization:
        """The test of an attack, which asks the model `on` where one is given; InputError."""
        _single(attack)
        solved: list[bool | None] = [None] * len(self.x)
        if self.rows:
            judge, asked = self._problems(self.model), self._problems(on or self.model)
            objective = _binary(attack.objective, self.rule if asked.rejects else None)
            targets = attack.targets if objective.targeted else 0
            attack = replace(attack, objective=objective, targets=targets)
            found = _attacked(judge, asked, attack, self.rule, self.draws, self.seed)
            for row, won in zip(self.rows, found, strict=True):
                solved[row] = won
        return Binarization(
            len(self.x), len(self.rows), sum(won is True for won in solved), self.won,
            self.readout.name, tuple(solved),
        )  # fmt: skip

    @property
    def informative(self) -> bool:
        """Whatever the attack?"""
        none = (None,) * len(self.x)
        return Binarization(
            len(self.x), len(self.rows), 0, self.won, self.readout.name, none
        ).informative

    def _problems(self, model: Model) -> Problems:
        return Problems(model, self.readout, self.x[list(self.rows)], self.weight, self.bias)


def posed(
    model: Model, x: Tensor, threat: AnyThreat, rule: Rejecting | None = None,
    random: bool = False, setting: Setting = Setting(), seed: int = 0,
) -> Posed:  # fmt: skip
    """Problems around images x (N, C, H, W), and what random points make of them."""
    place = home(model, x.device)
    x = x.to(place)
    draws = _DRAWS if random else 1
    with untouched(model, keys.seed_of(seed, "binarization"), place):
        with torch.no_grad():
            readout = Readout.of(model, x)
        made = [build(model, readout, x[i], i, threat, rule, draws, setting, seed)
                for i in range(len(x))]  # fmt: skip
    rows = tuple(i for i, problem in enumerate(made) if problem is not None)
    known = [problem for problem in made if problem is not None]
    if not known:
        none = x.new_zeros(0)
        return Posed(model, readout, x, (), none, none, rule, draws, seed, 0)
    weight, bias, scale = (torch.stack(part) for part in zip(*known, strict=True))
    rule = None if rule is None else _rescaled(rule, float(scale.median()))
    judge = Problems(model, readout, x[list(rows)], weight, bias)
    won = _by_chance(judge, x[list(rows)], threat, rule, draws, setting, seed)
    return Posed(model, readout, x, rows, weight, bias, rule, draws, seed, int(won.sum()))


def _single(attack: Attack) -> None:
    """Raises InputError for an attack on anything but single inputs."""
    if not isinstance(attack, Attack) or attack.threat.site.shared:
        given = f"{type(attack).__name__} in the binarization test"
        raise InputError(given, "one attack on single inputs", "test the parts of a chain apart")


def _rescaled(rule: Rejecting, by: float) -> Rejecting:
    """The rule where logits are worth `by` of what they were."""
    return replace(rule, inner=Margin(), weight=rule.weight * by, temperature=rule.temperature * by)


def _binary(objective: Objective, rule: Rejecting | None) -> Objective:
    """The objective about two classes, judged by the rule where there is one."""
    if rule is None:
        inner = objective.inner if isinstance(objective, Unaware) else objective
        plain = type(inner).__module__.startswith("torchproof.core.objectives")
        return inner if plain else Margin()
    if isinstance(objective, (Unaware, Selective, Heedless)):
        return replace(objective, rule=rule)
    return rule


def _lost(judge: Problems, x: Tensor, rule: Rejecting | None, draws: int) -> Tensor:
    """(B,) is it of the edge's class, and accepted, in most draws?"""
    wins = torch.zeros(len(x), device=x.device)
    with torch.no_grad():
        for number in range(draws):
            out = judge(x)
            won = logits_of(out).argmax(1) == 1
            wins += won if rule is None else won & (out["reject"] <= rule.threshold)
            losses = number + 1 - wins
            if bool(((wins > draws / 2) | (losses > draws / 2)).all()):
                break  # nothing can change any more
    return wins > draws / 2


def _by_chance(
    judge: Problems, x: Tensor, threat: AnyThreat, rule: Rejecting | None, draws: int,
    setting: Setting, seed: int,
) -> Tensor:  # fmt: skip
    """(N,) did one of the random points of the set solve it?"""
    ball: Any = threat.set(judge.model, x)
    won = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    own = keys.mix(seed, "chance", torch.arange(len(x), device=x.device))
    with untouched(judge, keys.seed_of(seed, "chance"), x.device):
        for number in range(setting.random):
            won |= _lost(judge, x + ball.sample(keys.mix(own, number)), rule, draws)
    return won


def _groups(x: Tensor, threat: AnyThreat, model: Model) -> list[list[int]]:
    """Rows in groups within which no two sets come near enough to be confused."""
    groups: list[list[int]] = []
    ball: Any = threat.set(model, x)
    for row in range(len(x)):
        way = x[row : row + 1] - x
        far = way.flatten(1).square().sum(1)
        clash = (far <= 2.5 * ball.support(way)).tolist()
        for group in groups:
            if not any(clash[other] for other in group):
                group.append(row)
                break
        else:
            groups.append([row])
    return groups


def _attacked(
    judge: Problems, asked: Problems, attack: Attack, rule: Rejecting | None, draws: int, seed: int
) -> list[bool]:
    """Which problems the attack solves, group by group."""
    won = [False] * len(judge.x)
    for group in _groups(judge.x, attack.threat, judge.model):
        x, rows = judge.x[group], torch.tensor(group)
        one, two = (p.only(group[0]) if len(group) == 1 else p for p in (judge, asked))
        # a lucky draw ends a search too early, so that of a random model goes on to its best point
        patience = math.inf if draws > 1 else 0.0
        run = Run(seed=keys.seed_of(seed, "active"), ids=rows, patience=patience)
        with untouched(one):  # the surrogate may hold what the judged model has not
            found = attack(Attached(two), x, rows.to(x.device) * 0, run=run)
        assert isinstance(found.value, Tensor)
        moved = x + found.value.to(x)
        with untouched(one, keys.seed_of(seed, "judge"), x.device):
            held = _lost(one, moved, rule, draws)
        for row, ok in zip(group, held.tolist(), strict=True):
            won[row] = ok
    return won
