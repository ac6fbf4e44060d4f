"""Universal perturbations: one for all inputs (Moosavi-Dezfooli et al. 2017), and one per target
class that turns every input into that class, the targeted universal perturbations of region
adversarial training (Wang et al. 2020, arXiv 2008.07838; our reading of the abstract, as no code
and no full text could be had).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from torchproof.attack.cases import Cases, Point
from torchproof.attack.combine import Attack
from torchproof.attack.oracle import Oracle
from torchproof.attack.pgd import PGD
from torchproof.attack.run import Run
from torchproof.attack.starts import Zero
from torchproof.attack.untouched import untouched
from torchproof.core import keys
from torchproof.core.errors import InputError
from torchproof.core.objectives import CrossEntropy, Goal, Objective
from torchproof.core.sites import Model, Universal
from torchproof.core.threats import Threat


@dataclass(frozen=True)
class Fooled(Objective):
    """The inner objective with a yardstick for shared perturbations: 1 for an example that is
    fooled, else 0, so that the score of a perturbation is the share that it fools.

    remaining: only examples that are not fooled yet push (as Moosavi-Dezfooli et al. 2017).
    """

    inner: Objective
    remaining: bool = False
    soft: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.inner.soft:
            given = f"a universal perturbation for {type(self.inner).__name__}"
            remedy = "use CrossEntropy() or Targeted()"
            raise InputError(given, "an objective of labels or of a target", remedy)
        object.__setattr__(self, "targeted", self.inner.targeted)

    def loss(self, out: Tensor, goal: Goal) -> Tensor:
        loss = self.inner.loss(out, goal)
        return torch.where(self.inner.won(out, goal), 0.0, loss) if self.remaining else loss

    def won(self, out: Tensor, goal: Goal) -> Tensor:
        return self.inner.won(out, goal)

    def score(self, out: Tensor, goal: Goal) -> Tensor:
        return self.inner.won(out, goal).to(out.dtype)


@dataclass(frozen=True)
class Passes:
    """Gradients from mini-batches of `size` examples, in an order shuffled for every pass over
    them; a verdict on all of them where a pass begins and at the end, and none in between.

    `steps` is the length of the search, by which the number of the step is known.
    """

    inner: Oracle
    size: int
    steps: int

    def __call__(self, cases: Cases, delta: Any, gradient: bool, progress: Tensor) -> Point:
        count = len(cases.x)
        if not gradient or count <= self.size:
            return self.inner(cases, delta, gradient, progress)
        step, batches = round(float(progress[0]) * self.steps), -(-count // self.size)
        at = step % batches
        every = torch.arange(count, device=cases.key.device)
        shuffled = keys.mix(cases.key, "pass", step // batches, every).argsort(stable=True)
        rows = shuffled[at * self.size : (at + 1) * self.size]
        part = Cases(cases.x[rows], cases.y[rows], cases.target[rows], cases.set, cases.key)
        point = self.inner(part, delta, True, progress)
        if at:
            nothing = torch.full_like(point.score, -torch.inf)
            return point._replace(score=nothing, won=torch.zeros_like(point.won))
        whole = self.inner(cases, delta, False, progress)
        cost = (point.cost[0] + whole.cost[0], point.cost[1])
        return point._replace(score=whole.score, won=whole.won, cost=cost)


@dataclass(frozen=True)
class Enough:
    """Won as soon as the score, the share that is fooled, reaches `share`."""

    inner: Oracle
    share: float

    def __call__(self, cases: Cases, delta: Any, gradient: bool, progress: Tensor) -> Point:
        point = self.inner(cases, delta, gradient, progress)
        return point._replace(won=point.score >= self.share)


def universal(
    threat: Threat,
    steps: int = 200,
    alpha: float | None = None,
    objective: Objective = CrossEntropy(),
    batch: int | None = 64,
    enough: float = 1.0,
    remaining: bool = False,
) -> Attack:
    """One perturbation that fools as many inputs as it can (Moosavi-Dezfooli et al. 2017).

    v' = P(v + alpha * steepest(mean gradient over a mini-batch)) from 0; inputs are clipped to the
    threat's box after v is added. alpha: the step in input units, by default 2.5 eps / steps;
    batch: examples per step, None for all; enough: the share of fooled examples that ends the
    search; remaining: examples that are fooled already do not push. The result's `score` is the
    share fooled, its best point the v with the largest. Targeted objectives take one class, target=
    of shape (1,). Raises InputError for an alpha, batch or enough that cannot be meant.
    """
    if alpha is not None and not alpha > 0:
        raise InputError(f"alpha = {alpha!r}", "a number > 0, in input units", "write 0.01")
    if batch is not None and (isinstance(batch, bool) or batch < 1):
        raise InputError(f"batch = {batch!r}", "a whole number >= 1", "pass None for all examples")
    if not 0 < enough <= 1:
        raise InputError(f"enough = {enough!r}", "a share in (0, 1]", "write 0.9 for 90 %")
    if not isinstance(threat.site, Universal):
        threat = replace(threat, site=Universal(threat.low, threat.high))
    search = PGD(steps, None if alpha is None else alpha / threat.eps, Zero())

    def wrap(oracle: Oracle) -> Oracle:
        return Enough(oracle if batch is None else Passes(oracle, batch, steps), enough)

    return Attack(threat, Fooled(objective, remaining), search, wrap=wrap)


@dataclass(frozen=True)
class Semantic:
    """One perturbation per target class: values (T, C, H, W), classes (T,), share (T,), of the
    other classes' examples that become the target; spent (T, 2) forward and backward samples.
    """

    values: Tensor
    classes: Tensor
    share: Tensor
    spent: Tensor


def semantic(
    attack: Attack, model: Model, x: Tensor, y: Tensor, classes: Sequence[int], seed: int = 0
) -> Semantic:
    """For each class a perturbation that turns the other classes' examples into it (Wang et al.
    2020, reconstructed).

    attack: as by `universal(threat, objective=Targeted())`. Raises InputError for an attack without
    target or at another site, for no class, and where all examples are of the target class.
    """
    if not isinstance(attack.threat.site, Universal) or not attack.objective.targeted:
        given = f"{type(attack.objective).__name__} at the site {type(attack.threat.site).__name__}"
        remedy = "pass universal(threat, objective=Targeted())"
        raise InputError(given, "a targeted objective and one perturbation for all", remedy)
    if not len(classes):
        raise InputError("no target class", "at least one", "pass classes=range(10), for example")
    found = []
    for number in classes:
        others = (y != number).nonzero()[:, 0]
        if not len(others):
            given = f"{len(y)} examples, all of class {number}"
            raise InputError(given, "some of another class", "give examples of several classes")
        run = Run(seed=keys.seed_of(seed, "semantic", number))
        found.append(attack(model, x[others], y[others], target=torch.tensor([number]), run=run))
    values: list[Any] = [f.value for f in found]
    return Semantic(
        torch.cat(values),
        torch.tensor(list(classes)),
        torch.cat([f.score for f in found]),
        torch.cat([f.spent for f in found]),
    )


@torch.no_grad()
def taken(
    model: Model, x: Tensor, y: Tensor, found: Semantic, threat: Threat, slots: int = 256
) -> Tensor:
    """(T,) the share of the other classes' examples x (N, C, H, W), y (N,), that each perturbation
    turns into its class: the figure to report, on examples it was not made from.

    Inputs are clipped to the threat's box. NaN where no example is of another class.
    """
    shares = []
    with untouched(model):
        for number, value in zip(found.classes.tolist(), found.values, strict=True):
            moved = (x[y != number] + value.to(x)).clamp_(threat.low, threat.high)
            answers = [model(part).argmax(1) == number for part in torch.split(moved, slots)]
            shares.append(torch.cat(answers).double().mean())
    return torch.stack(shares)
