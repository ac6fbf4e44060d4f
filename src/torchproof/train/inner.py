"""What methods that train on adversarial images have in common: PGD that returns its last
iterate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from numbers import Real
from typing import ClassVar

import torch
from torch import Tensor, nn

from torchproof.attack.combine import Attack
from torchproof.attack.pgd import PGD, NoisyPGD
from torchproof.attack.run import Run
from torchproof.attack.search import Search
from torchproof.attack.starts import Start, Uniform
from torchproof.attack.untouched import untouched
from torchproof.core import keys
from torchproof.core.errors import InputError
from torchproof.core.objectives import Classification, CrossEntropy, Goal, Objective
from torchproof.core.threats import AnyThreat, Threat
from torchproof.core.values import Value
from torchproof.train.method import Batch, Method, answers


@dataclass(frozen=True)
class Adversarial(Method):
    """A method whose batches hold x', the last iterate of PGD on `objective`, made in eval mode.

    steps: of PGD, 0 for x itself, without a random start; length: of a step in units of eps (2/255
    for 8/255); start: of PGD; ramp: share of the training over which eps grows from 0, which spares
    small networks the plateau of a constant answer; patience: wrong answers that an image may give
    before it is taken as it is, infinite for the last iterate; noise: standard deviation, in input
    units, of the normal noise added at each step. Raises InputError for parts that do not fit.
    """

    threat: AnyThreat
    steps: int = 10
    length: float = 0.25
    start: Start = field(default_factory=Uniform)
    ramp: float = 0.0
    patience: float = math.inf
    noise: float = 0.0

    def __post_init__(self) -> None:
        if not hasattr(self.threat, "site"):
            given = f"{type(self).__name__} with threat = {self.threat!r}"
            raise InputError(given, "a threat", "pass parse('linf:8/255'), for example")
        shared = isinstance(self.ramp, Real) and 0 <= self.ramp <= 1
        if not shared or (self.ramp > 0 and not isinstance(self.threat, Threat)):
            raise InputError(
                f"ramp = {self.ramp!r} with a {type(self.threat).__name__}",
                "a share of the training in [0, 1], and a Threat with an eps if it is not 0",
                "write ramp=0.2 to let eps grow over the first fifth",
            )
        if not isinstance(self.patience, Real) or not self.patience >= 0:
            remedy = "0 takes the first image that is misclassified, inf the last iterate"
            raise InputError(f"patience = {self.patience!r}", "a number >= 0", remedy)
        if not isinstance(self.noise, Real) or not 0 <= self.noise < math.inf:
            raise InputError(f"noise = {self.noise!r}", "a number >= 0", "0.001 is usual")
        _ = self.attack  # what cannot work fails here, not in the first step

    @property
    def objective(self) -> Objective:
        """What the inner attack ascends."""
        return CrossEntropy()

    @property
    def idle(self) -> bool:
        """Is there no attack at all, so that x' is x?"""
        return type(self.steps) is int and self.steps == 0

    @property
    def search(self) -> Search:
        chosen = (1 if self.idle else self.steps, self.length, self.start)
        return NoisyPGD(*chosen, noise=self.noise) if self.noise else PGD(*chosen)

    @cached_property
    def attack(self) -> Attack:
        return Attack(self.threat, self.objective, self.search)

    def prepare(self, model: nn.Module, batch: Batch) -> Batch:
        """An objective about probabilities is asked about those of the clean images."""
        if self.idle or not self.objective.soft:
            return self.craft(model, batch)
        z, asked = clean_answers(model, batch)
        return self.craft(model, asked, goal=z.softmax(1))

    def craft(self, model: nn.Module, batch: Batch, goal: Tensor | None = None) -> Batch:
        """The batch with x' in `adv`; `goal` replaces the labels in the objective, but what is
        misclassified, and tries the patience, is a matter of the labels.
        """
        if self.idle:
            return replace(
                batch, adv=batch.x, taken=torch.zeros(len(batch.x), device=batch.x.device)
            )
        patience = min(self.patience, batch.patience)
        run = Run(batch.seed, batch.ids, max(len(batch.x), 1), patience, last=True)
        attack, y = self._due(batch.progress), batch.y if goal is None else goal
        if y.dim() == 2 and patience < math.inf:
            attack = replace(attack, objective=Labelled(attack.objective))
            y = torch.cat([y, batch.y[:, None].to(y)], 1)
        found = attack(model, batch.x, y, run=run)
        forward, backward = (int(n) for n in found.spent.sum(0))
        spent = (batch.spent[0] + forward, batch.spent[1] + backward)
        taken = found.spent[:, 1].to(batch.x.device)
        return replace(batch, adv=_added(batch.x, found.value), taken=taken, spent=spent)

    def _due(self, progress: float) -> Attack:
        """The attack with the eps that is due: a straight line from (nearly) 0, reached after the
        share `ramp`.
        """
        attack = self.attack
        if progress >= self.ramp or not isinstance(attack.threat, Threat):
            return attack
        eps = attack.threat.eps * max(progress / self.ramp, 1e-3)
        return replace(attack, threat=replace(attack.threat, eps=eps))


def clean_answers(model: nn.Module, batch: Batch) -> tuple[Tensor, Batch]:
    """Logits (B, K) of the clean images, in eval mode and without a graph, and the batch that has
    paid for them.
    """
    seed = keys.seed_of(batch.seed, "clean")
    with untouched(model, seed, batch.x.device), torch.no_grad():
        z = answers(model, batch.x)
    return z, replace(batch, spent=(batch.spent[0] + len(batch.x), batch.spent[1]))


@dataclass(frozen=True)
class Labelled(Classification):
    """An objective about soft labels (B, K) with a verdict about the true ones, which y (B, K + 1)
    holds in its last column.
    """

    inner: Objective
    soft: ClassVar[bool] = True

    def loss(self, out: Tensor, goal: Goal) -> Tensor:
        return self.inner.loss(out, goal._replace(y=goal.y[:, :-1]))

    def won(self, out: Tensor, goal: Goal) -> Tensor:
        return out.argmax(1) != goal.y[:, -1].long()

    def score(self, out: Tensor, goal: Goal) -> Tensor:
        return self.inner.score(out, goal._replace(y=goal.y[:, :-1]))


def _added(x: Tensor, value: Value) -> Tensor:
    if not isinstance(value, Tensor):
        raise InputError(
            "a threat that perturbs more than the input",
            "a threat on inputs",
            "wrap the method in AWP for weights",
        )
    return (x + value.to(x.dtype)).clamp_(0, 1)
