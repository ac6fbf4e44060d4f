"""APGD: PGD with momentum that sets its own step size (Croce and Hein 2020a, algorithm 1)."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from torchproof.attack.cases import Point
from torchproof.attack.pgd import check_steps
from torchproof.attack.search import Search, State
from torchproof.attack.starts import Sphere, Start
from torchproof.core.sets import Set
from torchproof.core.values import expand, leaves, overwrite, tree


def checkpoints(steps: int) -> list[int]:
    """The steps after which the step size is reconsidered.

    >>> checkpoints(100)
    [22, 41, 57, 70, 80, 87, 93, 99]
    """
    window, least, shrink = (
        max(int(0.22 * steps), 1),
        max(int(0.06 * steps), 1),
        max(int(0.03 * steps), 1),
    )
    at, marks = window, []
    while at <= steps:
        marks.append(at)
        window = max(window - shrink, least)
        at += window
    return marks


@dataclass(frozen=True)
class Best(State):
    """top, slope, peak: the best point, its gradient and loss."""

    top: Any
    slope: Any
    peak: Tensor


@dataclass(frozen=True)
class Climb(Best):
    """before: the previous iterate; level: the last loss; step: its size in radii; rises: rising
    losses in this window; held: was the size kept at the last checkpoint; mark: the best loss
    there.
    """

    before: Any
    level: Tensor
    step: Tensor
    rises: Tensor
    held: Tensor
    mark: Tensor


@dataclass(frozen=True)
class APGD(Search):
    """x' = P(x + a (P(x + step g) - x) + (1 - a)(x - x_before)), the step halved at checkpoints
    (eq. 2, conditions 1-2).

    Deviations from the authors' code, which differ in ties only: the first rise is counted against
    the loss at the start (theirs reads a row of zeros); conditions are checked with "<=" as in
    their code, not "<" as in the paper.
    """

    steps: int = 100
    start: Start = field(default_factory=Sphere)
    alpha: float = 0.75
    rho: float = 0.75

    def __post_init__(self) -> None:
        check_steps(self.steps)

    @property
    def random(self) -> bool:
        return self.start.random

    @cached_property
    def _windows(self) -> Tensor:
        """(steps + 1,) the window that ends at each step, 0 where none does."""
        marks = checkpoints(self.steps)
        windows = torch.zeros(self.steps + 1)
        windows[marks] = torch.diff(torch.tensor([0, *marks])).float()
        return windows

    def init(self, set: Set, key: Tensor) -> Climb:
        delta = self.start(set, key)
        like = next(leaves(delta))

        def full(value: float) -> Tensor:
            return like.new_full((len(key),), value)

        return Climb(
            delta=delta, t=torch.zeros_like(key), before=tree(torch.clone, delta),
            top=tree(torch.clone, delta),
            slope=tree(torch.zeros_like, delta), peak=full(-torch.inf), level=full(torch.inf),
            step=full(2.0),
            rises=full(0.0), held=torch.zeros_like(key, dtype=torch.bool), mark=full(-torch.inf),
        )  # fmt: skip

    def step(self, set: Set, key: Tensor, state: Climb, point: Point) -> Climb:
        loss, grad = point.loss, point.grad
        better = loss > state.peak
        top, slope, peak = keep_best(state, better, grad, loss)
        rises = state.rises + (loss > state.level)
        mark = torch.where(state.t == 0, peak, state.mark)
        window = self._windows.to(key.device)[state.t]
        due = window > 0
        stuck = due & ((rises <= self.rho * window) | (state.held & (peak <= mark)))
        delta, step = state.delta, torch.where(stuck, state.step / 2, state.step)
        if bool(stuck.any()):
            rows = stuck.nonzero()[:, 0]
            delta, grad = jump(delta, top, rows), jump(grad, slope, rows)
        first = torch.where(state.t == 0, 1.0, self.alpha)
        nxt = self._move(set, delta, state.before, grad, step, first)
        return Climb(
            delta=nxt, t=state.t + 1, before=delta, top=top, slope=slope, peak=peak,
            level=loss.clone(), step=step,
            rises=torch.where(due, torch.zeros_like(rises), rises), held=torch.where(due, ~stuck,
            state.held),
            mark=torch.where(due, peak, mark),
        )  # fmt: skip

    def _move(self, set: Set, delta: Any, before: Any, grad: Any, step: Tensor, a: Tensor) -> Any:
        """One step with momentum; `before` may be overwritten."""

        def blend(z: Tensor, d: Tensor, b: Tensor) -> Tensor:
            w = expand(a.to(d.dtype), d)
            return torch.lerp(d, z, w, out=z).addcmul_(b.sub_(d), w - 1)

        ahead: Any = set.advance(delta, grad, step)
        return set.bring(tree(blend, ahead, delta, before))


def keep_best(state: Best, better: Tensor, grad: Any, loss: Tensor) -> tuple[Any, Any, Tensor]:
    """The best point, its gradient and its loss, overwritten in the rows that got better."""
    rows = better.nonzero()[:, 0]
    overwrite(state.top, rows, state.delta)
    overwrite(state.slope, rows, grad)
    return state.top, state.slope, torch.where(better, loss, state.peak)


def jump(value: Any, best: Any, rows: Tensor) -> Any:
    """`value` with the given rows taken from `best`; a copy."""
    return tree(lambda v, b: v.index_copy(0, rows, b.index_select(0, rows)), value, best)
