"""L1-APGD: APGD for the L1 ball, whose steps are about as sparse as its best point (Croce and Hein
2021, "Mind the box", with the three radii that AutoAttack gives it).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from torchproof.attack.apgd import Best, jump, keep_best
from torchproof.attack.cases import Point
from torchproof.attack.fab import require_norm
from torchproof.attack.pgd import check_steps
from torchproof.attack.search import Search
from torchproof.attack.starts import Gaussian, Start
from torchproof.core.errors import InputError
from torchproof.core.norms import L0, L1, Norm
from torchproof.core.schedules import segment
from torchproof.core.sets import Ball, Set
from torchproof.core.values import expand

_CHECKED = 0.04  # share of a stage's steps between two checkpoints
_SPARSER = 0.95  # progress: fewer changed coordinates than this share of those before
_FEWER = 1.5  # the best point changes this many times the coordinates that a step moves
_SHRINK, _LEAST = 1.5, 0.1  # how a step shrinks, and its least size in radii


class Plan(NamedTuple):
    """What an answer means, each (steps + 1,): the radius searched, in units of eps; is it the
    first of its stage, a checkpoint, the last of a stage that another one follows?
    """

    radius: Tensor
    first: Tensor
    check: Tensor
    last: Tensor


@dataclass(frozen=True)
class Sparse(Best):
    """The best point is that of the present stage; step: its size in radii; active: how many
    coordinates the best point changed at the last checkpoint.
    """

    step: Tensor
    active: Tensor


@dataclass(frozen=True)
class L1APGD(Search):
    """x' = P(x + step * sign(g_k) / k), where g_k are the k largest entries of the gradient and P
    is exact on ball and box.

    k is two thirds of the number of coordinates that the best point changes. Where that number fell
    by more than 5 % since the last checkpoint, the step grows to a whole radius again and the
    search returns to its best point; elsewhere the step shrinks by 1.5, down to a tenth. The balls
    of `radii` eps are searched in turn, each until the progress `until`, from the best point of the
    one before. Only points within eps count.

    Deviations from AutoAttack's code: the first answer of every stage is one of its `steps`, so 101
    questions are asked where theirs asks 103; k is rounded up.
    """

    steps: int = 100
    start: Start = field(default_factory=partial(Gaussian, 1.0))
    radii: tuple[float, ...] = (3.0, 2.0, 1.0)
    until: tuple[float, ...] = (0.3, 0.6, 1.0)

    wanders: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"bounded", "image"})
    norms: ClassVar[frozenset[type[Norm]] | None] = frozenset({L1})

    def __post_init__(self) -> None:
        check_steps(self.steps)
        rising = all(a < b for a, b in zip((0.0, *self.until), self.until, strict=False))
        same = len(self.radii) == len(self.until) > 0
        if not (same and rising and self.until[-1] == self.radii[-1] == 1 and min(self.radii) > 0):
            raise InputError(
                f"radii = {self.radii} until {self.until}",
                "positive radii in units of eps, the last being 1, and as many rising ends, the "
                "last being 1",
                "AutoAttack's are radii=(3, 2, 1), until=(0.3, 0.6, 1)",
            )

    @property
    def random(self) -> bool:
        return self.start.random

    @cached_property
    def _plan(self) -> Plan:
        t = torch.arange(self.steps + 1)
        stage = segment(t / self.steps, self.until)
        first = torch.diff(stage, prepend=stage[:1] - 1) > 0
        last = torch.cat([first[1:], first[:1] & False])
        since = t - torch.where(first, t, 0).cummax(0).values
        length = torch.bincount(stage[:-1], minlength=len(self.until))
        apart = (_CHECKED * length).int().clamp_min(1)[stage]
        return Plan(torch.tensor(self.radii)[stage], first, (since % apart == 0) & ~first, last)

    def init(self, set: Set, key: Tensor) -> Sparse:
        ball = require_norm(self, set)
        radius = ball.radius * float(self._plan.radius[0])
        delta = self.start(Ball.of(ball.norm, radius, ball.low, ball.high), key)
        zero = torch.zeros_like(ball.radius)
        return Sparse(
            delta=delta, t=torch.zeros_like(key), top=delta.clone(), slope=torch.zeros_like(delta),
            peak=zero - torch.inf, step=zero + 1, active=zero.clone(),
        )  # fmt: skip

    def step(self, set: Set, key: Tensor, state: Sparse, point: Point) -> Sparse:
        ball = require_norm(self, set)
        grad: Any = point.grad
        plan = Plan(*(row.to(key.device) for row in self._plan))
        first, check, last = (row[state.t] for row in (plan.first, plan.check, plan.last))
        better = first | (point.loss > state.peak)
        top, slope, peak = keep_best(state, better, grad, point.loss)
        changed = L0().length(top)
        sparser = check & (changed < _SPARSER * state.active)
        smaller = torch.where(check, (state.step / _SHRINK).clamp_min(_LEAST), state.step)
        step = torch.where(first | sparser, 1.0, smaller)
        active = torch.where(first | check, changed, state.active)
        rows, delta = (sparser | last).nonzero()[:, 0], state.delta
        if len(rows):
            delta, grad = jump(delta, top, rows), jump(grad, slope, rows)
        radius = ball.radius * plan.radius[state.t + 1]
        length = torch.where(last, 0.0, step) * radius  # a new stage first asks where it stands
        moved = sparse_sign(grad, active / _FEWER).mul_(expand(length, grad)).add_(delta)
        nxt = ball.norm.bring(moved, radius, ball.low, ball.high)
        return Sparse(nxt, state.t + 1, top, slope, peak, step, active)


def sparse_sign(g: Tensor, count: Tensor) -> Tensor:
    """The signs of the `count` entries of g that are largest in size, divided by their number.

    g: (P, ...); count: (P,), rounded up, at least one entry. Entries as large as the last one that
    counts come along.
    """
    rows = g.flatten(1)
    size, count = rows.abs(), count.ceil().long().clamp(1, rows.shape[1])
    largest = size.topk(int(count.max()), dim=1).values
    sign = rows.sign() * (size >= largest.gather(1, count[:, None] - 1))
    return (sign / sign.abs().sum(1, keepdim=True).clamp_min(1)).reshape(g.shape)
