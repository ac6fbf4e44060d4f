"""The jobs in flight: how they enter, ask, and leave with what they found."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor

from torchproof.attack.cases import Cases, Found, Jobs, Point
from torchproof.attack.oracle import Oracle
from torchproof.attack.queue import Queue
from torchproof.attack.run import Run
from torchproof.attack.search import Search
from torchproof.core import keys
from torchproof.core.sets import Set
from torchproof.core.sites import Site
from torchproof.core.values import Value, overwrite, take, tree

T = TypeVar("T")
Enclose = Callable[[Tensor], Set]


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
class Loop:
    """What stays fixed during one call of `ascend`, and what it does to the jobs in flight."""

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
        rows, jobs, count = self.site.rows(self.jobs.problem[job]), self.jobs.rows(job), len(job)
        cases = self.about(jobs, self.x[rows], self.y[rows])
        state = self.search.init(cases.set, cases.key)
        zero = torch.zeros(count, device=self.device)
        best = None if self.run.last else tree(torch.clone, state.delta)
        score = zero.to(self.dtype) - torch.inf  # inputs may be numbers of words
        spent = torch.zeros(count, 2, dtype=torch.int64, device=self.device)
        spent[:, 0] = self.site.entry * (len(cases.x) // count)
        blind = torch.zeros(count, dtype=torch.int64, device=self.device)
        return Slots(
            cases, state, best, score, zero.bool(), zero, spent, blind, job.to(self.device)
        )

    def about(self, jobs: Jobs, x: Tensor, y: Tensor) -> Cases:
        """What these jobs are about, whose examples are x, y."""
        x, y, number = x.to(self.device, self.dtype), y.to(self.device), jobs.problem
        if self.run.ids is not None and not self.site.shared:
            number = self.run.ids[number]
        key = keys.mix(self.run.seed, number, jobs.target, jobs.restart).to(self.device)
        target = jobs.target.to(self.device).expand(len(x))
        return Cases(x, y, target, self.enclose(x), key)

    def ask(self, live: Slots, gradient: bool) -> Point:
        """One question about every slot; the answer is recorded in place."""
        progress = live.state.t / self.search.steps
        point = self.oracle(live.cases, live.state.delta, gradient, progress)
        live.spent.add_(_price(point.cost, self.device))
        if point.undefined is not None:
            live.undefined.add_(point.undefined)
        won = point.won
        if self.search.wanders:  # it is told that it crossed the boundary, the record is not
            allowed = live.cases.set.inside(live.state.delta)
            won = won & allowed
        live.wins.add_(won)
        if not self.run.last:
            better = point.score > live.score
            self.remember(live, point, won, better & allowed if self.search.wanders else better)
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
        problem = self.record(found, gone)
        # with endless patience (the nearest of all wins is wanted) a win cancels nothing
        cancels = self.run.last or self.run.patience < math.inf
        over = found.lost[problem] if cancels else torch.zeros_like(found.lost[problem])
        finished = queue.land(problem.tolist(), over.tolist())
        found.done[finished] = True
        if self.run.on_done is not None and finished:
            self.run.on_done(found, finished)

    def record(self, found: Found, gone: Slots) -> Tensor:
        """Writes what these jobs found; returns their problems."""
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
            _store(found.value, problem[rows], pick(gone.best, better.to(self.device)))
            found.score[problem[rows]] = score[rows]
            found.by[problem[rows]] = self._origin(job[rows])
        found.lost[problem] |= won
        return problem

    def account(self, found: Found, slots: Slots) -> None:
        """Adds up what these jobs have counted."""
        problem = self.jobs.problem[slots.job.cpu()]
        found.spent.index_add_(0, problem, slots.spent.cpu())
        found.undefined.index_add_(0, problem, slots.undefined.cpu())

    def _origin(self, job: Tensor) -> Tensor:
        """(J, 2) the target and the restart of each job."""
        return torch.stack([self.jobs.target[job], self.jobs.restart[job]], 1)


def _store(value: Value, at: Tensor, new: Value) -> None:
    """Writes rows."""
    tree(lambda old, rows: old.index_copy_(0, at.to(old.device), rows.to(old)), value, new)


@cache
def _price(cost: tuple[int, int], device: torch.device) -> Tensor:
    return torch.tensor(cost, device=device)


def pick(live: T, rows: Tensor) -> T:
    """The rows of a mask; the very same when it holds everywhere (at a shared site, always)."""
    return live if bool(rows.all()) else take(live, rows)
