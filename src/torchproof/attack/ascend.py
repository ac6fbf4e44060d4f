"""`ascend`: the one loop that drives every search at every site, over a queue of jobs with a fixed
number of slots.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor

from torchproof.attack.cases import Cases, Found, Jobs, Point
from torchproof.attack.oracle import Oracle
from torchproof.attack.queue import Queue
from torchproof.attack.search import Search
from torchproof.core import keys
from torchproof.core.errors import InputError
from torchproof.core.sets import Set
from torchproof.core.sites import Site
from torchproof.core.values import Value, leaves, overwrite, put, take, tree

T = TypeVar("T")
Enclose = Callable[[Tensor], Set]


@dataclass(frozen=True)
class Run:
    """How a search is run; nothing here changes what is asked about one example, but for `seed`,
    `patience`, `budget`.

    seed; ids: the examples' global ids (N,), by default their positions; slots: problems per model
    call; patience: the number of won answers an example may give before it leaves (0: the first
    win ends it; inf: never; in between: friendly adversarial training); last: return the last
    iterate (training) instead of the worst point; budget: forward plus backward samples that no
    job exceeds, its first question apart; on_done: called with what was found and the
    problems that are finished; stop: asked before every step, True ends the run.
    """

    seed: int = 0
    ids: Tensor | None = None
    slots: int = 128
    patience: float = 0.0
    last: bool = False
    budget: float = math.inf
    on_done: Callable[[Found, list[int]], None] | None = None
    stop: Callable[[], bool] = lambda: False

    def __post_init__(self) -> None:
        if self.slots < 1:
            raise InputError(
                f"slots = {self.slots}", "a whole number >= 1", "128 is a good batch size on a CPU"
            )


@dataclass(frozen=True)
class Slots:
    """The jobs in flight; every leaf has one row per slot. best, score, won: the worst point each
    job has seen; wins, spent, undefined: what it has counted.
    """

    cases: Cases
    state: Any
    best: Any
    score: Tensor
    won: Tensor
    wins: Tensor
    spent: Tensor
    undefined: Tensor
    job: Tensor


@dataclass(frozen=True)
class _Loop:
    """What stays fixed during one call of `ascend`."""

    oracle: Oracle
    search: Search
    site: Site
    enclose: Enclose
    x: Tensor
    y: Tensor
    jobs: Jobs
    run: Run
    device: torch.device
    dtype: torch.dtype

    def admit(self, picked: list[int]) -> Slots | None:
        """Fresh rows for the picked jobs; asks the model nothing (but what a latent set needs)."""
        if not picked:
            return None
        job = torch.tensor(picked)
        problem, target = self.jobs.problem[job], self.jobs.target[job]
        rows = self.site.rows(problem)
        x, y = self.x[rows].to(self.device, self.dtype), self.y[rows].to(self.device)
        number = problem if self.run.ids is None or self.site.shared else self.run.ids[problem]
        key = keys.mix(self.run.seed, number, target, self.jobs.restart[job]).to(self.device)
        allowed = self.enclose(x)
        cases = Cases(x, y, target.to(self.device).expand(len(x)), allowed, key)
        state = self.search.init(allowed, key)
        zero = torch.zeros(len(picked), device=self.device)
        best = None if self.run.last else tree(torch.clone, state.delta)
        score = zero.to(self.dtype) - torch.inf
        spent = torch.zeros(len(picked), 2, dtype=torch.int64, device=self.device)
        spent[:, 0] = self.site.entry * (len(x) // len(picked))
        blind = torch.zeros_like(spent[:, 0])
        return Slots(
            cases, state, best, score, zero.bool(), zero, spent, blind, job.to(self.device)
        )

    def ask(self, live: Slots, gradient: bool) -> Point:
        """One question about every slot; the answer is recorded in place."""
        progress = live.state.t / self.search.steps
        point = self.oracle(live.cases, live.state.delta, gradient, progress)
        live.spent.add_(_price(point.cost, self.device))
        if point.undefined is not None:
            live.undefined.add_(point.undefined)
        won, better = point.won, point.score > live.score
        if (
            self.search.wanders
        ):  # the search is told that it crossed the boundary, the record is not
            allowed = live.cases.set.inside(live.state.delta)
            won, better = won & allowed, better & allowed
        live.wins.add_(won)
        if not self.run.last:
            self.remember(live, point, won, better)
        return point

    def remember(self, live: Slots, point: Point, won: Tensor, better: Tensor) -> None:
        """Ranks by (won, score): two keys, never one number."""
        rows = torch.where(won == live.won, better, won).nonzero()[:, 0]
        if len(rows):
            overwrite(live.best, rows, live.state.delta if point.at is None else point.at)
            overwrite(live.score, rows, point.score.to(live.score))
            live.won.logical_or_(won)

    def retire(self, found: Found, gone: Slots, queue: Queue) -> None:
        """Writes what finished jobs found, and tells who is interested."""
        job = gone.job.cpu()
        problem = self.jobs.problem[job]
        self.account(found, gone)
        if self.run.last:
            won = (gone.wins > 0).cpu()
            _store(found.value, problem, gone.state.delta)
            found.by[problem] = self._origin(job)
        else:
            # searches are trusted to stay inside on their way, but no result is
            won = (gone.won & gone.cases.set.inside(gone.best)).cpu()
            score = gone.score.to(found.score)
            before = found.lost[problem]
            better = torch.where(won == before, score > found.score[problem], won)
            rows = better.nonzero()[:, 0]
            _store(found.value, problem[rows], _pick(gone.best, better.to(self.device)))
            found.score[problem[rows]] = score[rows]
            found.by[problem[rows]] = self._origin(job[rows])
        found.lost[problem] |= won
        # with endless patience (the nearest of all wins is wanted) a win cancels nothing
        over = found.lost[problem] if self.run.last or self.run.patience < math.inf else won & False
        finished = queue.land(problem.tolist(), over.tolist())
        found.done[finished] = True
        if self.run.on_done is not None and finished:
            self.run.on_done(found, finished)

    def account(self, found: Found, slots: Slots) -> None:
        """Adds up what these jobs have counted."""
        problem = self.jobs.problem[slots.job.cpu()]
        found.spent.index_add_(0, problem, slots.spent.cpu())
        found.undefined.index_add_(0, problem, slots.undefined.cpu())

    def _origin(self, job: Tensor) -> Tensor:
        """(J, 2) the target and the restart of each job."""
        return torch.stack([self.jobs.target[job], self.jobs.restart[job]], 1)


def _store(value: Value, at: Tensor, new: Value) -> None:
    """Writes rows; the usual case in training, all of them in order, as a plain copy."""

    def write(old: Tensor, rows: Tensor) -> Tensor:
        return old.copy_(rows) if whole else old.index_copy_(0, at.to(old.device), rows.to(old))

    whole = len(at) == len(next(leaves(value))) and bool((at[1:] > at[:-1]).all())
    tree(write, value, new)


def ascend(
    oracle: Oracle,
    search: Search,
    site: Site,
    enclose: Enclose,
    x: Tensor,
    y: Tensor,
    jobs: Jobs,
    run: Run = Run(),
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> Found:
    """Runs every job until it is won more often than `run.patience` allows, finished, or given up.

    x (N, C, H, W), y (N,) or (N, K) may live on another device than the model: rows travel when
    their turn comes. An example leaves the batch the moment it is lost, its other jobs are
    cancelled, and its slot is refilled. One forward and one backward per step; the last point of a
    job is judged by a forward alone.
    """
    device, dtype = device or x.device, dtype or x.dtype
    with torch.inference_mode(False):
        # tensors made under inference mode cannot take part in a graph; copies can
        x, y = (t.clone() if t.is_inference() else t for t in (x, y))
        loop = _Loop(oracle, search, site, enclose, x, y, jobs, run, device, dtype)
        queue = Queue(jobs)
        live = loop.admit(queue.pop(run.slots))
        if live is None:
            return Found.empty(0, x[:0], x.device)
        found = Found.empty(site.problems(len(x)), live.state.delta, x.device)
        found.spent[:, 0] = jobs.cost
        while live is not None and not run.stop():
            live, leave = _advance(loop, found, live, queue)
            if leave is not None:
                live = _refill(loop, live, leave, queue)
        if live is not None:  # stopped: what the jobs in flight have spent is spent
            loop.account(found, live)
    return found


def _advance(loop: _Loop, found: Found, live: Slots, queue: Queue) -> tuple[Slots, Tensor | None]:
    """One question and one step for every slot; retires the rows that are through, and says
    which, None for none.
    """
    search, run = loop.search, loop.run
    point = loop.ask(live, search.gradient)
    leave = live.wins > run.patience
    if run.budget < math.inf:
        leave |= live.spent.sum(1) + sum(point.cost) > run.budget
    # with endless patience nobody leaves, and a device need not be waited for to say so
    left = min(run.patience, run.budget) < math.inf and bool(leave.any())
    if left:
        loop.retire(found, _pick(live, leave), queue)
        if bool(leave.all()):
            return live, leave
    state = search.step(live.cases.set, live.cases.key, live.state, point)
    live = replace(live, state=state)
    over = state.t >= search.steps
    if bool(over.any()) and bool(over.logical_and_(~leave).any()):
        ending = _pick(live, over)
        if not run.last:
            loop.ask(ending, gradient=False)
        loop.retire(found, ending, queue)
        left = True
        leave |= over
    return live, leave if left else None


@cache
def _price(cost: tuple[int, int], device: torch.device) -> Tensor:
    return torch.tensor(cost, device=device)


def _pick(live: T, rows: Tensor) -> T:
    """The rows of a mask; the very same when it holds everywhere (at a shared site, always)."""
    return live if bool(rows.all()) else take(live, rows)


def _refill(loop: _Loop, live: Slots, leave: Tensor, queue: Queue) -> Slots | None:
    """Freed rows take new jobs in place; when the queue is dry the batch shrinks."""
    free = leave.nonzero()[:, 0]
    picked = queue.pop(len(free))
    fresh = loop.admit(picked)
    if len(free) == len(leave):
        return fresh
    if fresh is not None:
        put(live, free[: len(picked)], fresh)
    if len(picked) == len(free):
        return live
    stay = ~leave
    stay[free[: len(picked)]] = True
    return take(live, stay)
