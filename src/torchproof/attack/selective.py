"""Selective and orthogonal gradients against detectors (Bryniarski et al. 2021; from memory of the
paper).
"""

from __future__ import annotations

from dataclasses import dataclass, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from torchproof.attack.cases import Cases, Point, undefined_in
from torchproof.attack.combine import Attack
from torchproof.attack.oracle import Oracle, Plain
from torchproof.attack.pgd import PGD
from torchproof.attack.starts import Start, Uniform
from torchproof.core.errors import InputError
from torchproof.core.objectives import Margin, Objective
from torchproof.core.rejection import Rejecting
from torchproof.core.selective import Accepted, Selective
from torchproof.core.threats import AnyThreat
from torchproof.core.unaware import Unaware
from torchproof.core.values import expand, tree


def about(oracle: Oracle, objective: Objective) -> Oracle:
    """The same oracle, wrappers and all, about another objective; raises InputError where there is
    no plain oracle inside.
    """
    if isinstance(oracle, Plain):
        return replace(oracle, objective=objective)
    inner: Any = getattr(oracle, "inner", None)
    if inner is None or not is_dataclass(oracle) or isinstance(oracle, type):
        given = f"the oracle {type(oracle).__name__}"
        raise InputError(given, "wrappers with a field `inner`", "put Orthogonal inside of it")
    own = {"objective": objective} if hasattr(oracle, "objective") else {}
    changed: Oracle = replace(oracle, inner=about(inner, objective), **own)
    return changed


@dataclass(frozen=True)
class Orthogonal:
    """The gradient of `wanted` less its component along that of Accepted(rule) while `wanted` is
    not won; then the other way round: a step towards one does not cost the other.

    `inner` is asked twice, about either loss.
    """

    inner: Oracle
    wanted: Objective = Margin()
    rule: Rejecting = Rejecting()

    def __call__(self, cases: Cases, delta: Any, gradient: bool, progress: Tensor) -> Point:
        away = about(self.inner, _Split(self.wanted, self.rule))
        one = away(cases, delta, gradient, progress)
        if not gradient:
            return one
        other = about(self.inner, Accepted(self.rule))(cases, delta, True, progress)
        crossed = one.loss > 0
        grad = tree(lambda a, b: _chosen(a, b, crossed), one.grad, other.grad)
        cost = (one.cost[0] + other.cost[0], one.cost[1] + other.cost[1])
        loss = torch.where(crossed, other.loss.to(one.loss), one.loss)
        return one._replace(loss=loss, grad=grad, cost=cost, undefined=undefined_in([one, other]))


@dataclass(frozen=True)
class _Split(Unaware):
    """`inner`'s loss where it is above 0 on the far side of the boundary, else its score."""

    def loss(self, out: Any, goal: Any) -> Tensor:
        smooth = "boundary" in self.inner.offers
        logits = out["logits"]
        return self.inner.loss(logits, goal) if smooth else self.inner.score(logits, goal)


def _chosen(a: Tensor, b: Tensor, crossed: Tensor) -> Tensor:
    """a without b where not crossed, else b without a; rows are problems."""
    return torch.where(expand(crossed, a), _without(b, a), _without(a, b))


def _without(a: Tensor, b: Tensor) -> Tensor:
    """a - (<a, b> / |b|^2) b, row by row; a itself where b is 0."""
    flat_a, flat_b = a.flatten(1), b.flatten(1)
    square = flat_b.square().sum(1, keepdim=True)
    share = (flat_a * flat_b).sum(1, keepdim=True) / square.clamp_min(torch.finfo(a.dtype).tiny)
    return (flat_a - share * flat_b).view_as(a)


def selective(
    threat: AnyThreat,
    rule: Rejecting,
    steps: int = 100,
    length: float | None = None,
    objective: Objective = Margin(),
    start: Start = Uniform(),
) -> Attack:
    """PGD on the class while it is right, then on the detector alone (Bryniarski et al. 2021)."""
    return Attack(threat, Selective(objective, rule), PGD(steps, length, start))


def orthogonal(
    threat: AnyThreat,
    rule: Rejecting,
    steps: int = 100,
    length: float | None = None,
    objective: Objective = Margin(),
    start: Start = Uniform(),
) -> Attack:
    """Selective PGD along gradients made orthogonal to each other (Bryniarski et al. 2021)."""
    search, judged = PGD(steps, length, start), replace(rule, inner=objective)
    return Attack(threat, judged, search, wrap=lambda oracle: Orthogonal(oracle, objective, rule))
