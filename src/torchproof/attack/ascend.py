"""`ascend`: the one loop that drives every search at every site, over a queue of jobs with a fixed
number of slots.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from torchproof.attack.cases import Found, Jobs
from torchproof.attack.oracle import Oracle
from torchproof.attack.queue import Queue
from torchproof.attack.run import Run
from torchproof.attack.search import Search
from torchproof.attack.slots import Enclose, Loop, Slots, pick
from torchproof.core.sites import Site
from torchproof.core.values import leaves, put, take, tree


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
        loop = Loop(oracle, search, site, enclose, x, y, jobs, run, device, dtype)
        if _abreast(loop):
            return _to_the_end(loop)
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


def _abreast(loop: Loop) -> bool:
    """Do all problems start at once and go on to the last step, as in training?"""
    run, problems = loop.run, loop.site.problems(len(loop.x))
    endless = run.last and min(run.patience, run.budget) == math.inf and run.on_done is None
    if not (endless and loop.search.even and 0 < problems == len(loop.jobs) <= run.slots):
        return False
    return torch.equal(loop.jobs.problem, torch.arange(problems))


def _to_the_end(loop: Loop) -> Found:
    """`ascend` for problems that keep abreast: what the queue would do, without one."""
    search, jobs, here = loop.search, loop.jobs, loop.x.device
    x = loop.x.to(loop.device, loop.dtype, copy=True)  # models may write to what they are given
    cases = loop.about(jobs, x, loop.y)
    state = search.init(cases.set, cases.key)
    won = torch.zeros(len(jobs), dtype=torch.bool, device=loop.device)
    blind = torch.zeros(len(jobs), dtype=torch.int64, device=loop.device)
    forward, backward = jobs.cost + loop.site.entry * (len(x) // len(jobs)), 0
    over = False
    for _ in range(search.steps):
        over = loop.run.stop()
        if over:
            break
        point = loop.oracle(cases, state.delta, search.gradient, state.t / search.steps)
        won |= point.won & cases.set.inside(state.delta) if search.wanders else point.won
        if point.undefined is not None:
            blind += point.undefined
        forward, backward = forward + point.cost[0], backward + point.cost[1]
        state = search.step(cases.set, cases.key, state, point)
    spent = torch.tensor([forward, backward]).repeat(len(jobs), 1)
    if over:  # what was spent is spent
        nothing = Found.empty(len(jobs), state.delta, here)
        return replace(nothing, spent=spent, undefined=blind.cpu())
    value = tree(lambda leaf: leaf.to(here), state.delta)
    score = torch.full((len(jobs),), -torch.inf, dtype=next(leaves(value)).dtype)
    by, done = torch.stack([jobs.target, jobs.restart], 1), torch.ones(len(jobs), dtype=torch.bool)
    return Found(value, won.cpu(), score, spent, by, done, blind.cpu())


def _advance(loop: Loop, found: Found, live: Slots, queue: Queue) -> tuple[Slots, Tensor | None]:
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
        loop.retire(found, pick(live, leave), queue)
        if bool(leave.all()):
            return live, leave
    state = search.step(live.cases.set, live.cases.key, live.state, point)
    live = replace(live, state=state)
    over = state.t >= search.steps
    if bool(over.any()) and bool(over.logical_and_(~leave).any()):
        ending = pick(live, over)
        if not run.last:
            loop.ask(ending, gradient=False)
        loop.retire(found, ending, queue)
        left = True
        leave |= over
    return live, leave if left else None


def _refill(loop: Loop, live: Slots, leave: Tensor, queue: Queue) -> Slots | None:
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
