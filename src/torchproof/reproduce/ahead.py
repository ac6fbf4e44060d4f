"""Seeds of an experiment, measured by several processes at once, ahead of the experiment itself."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Collection
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from typing import TypeVar

import torch

from torchproof.evaluate.together import held, unattended
from torchproof.reproduce.experiment import Outcome, Partial, Request

T = TypeVar("T")


def ahead(experiment: Callable[[Request], Outcome], request: Request, jobs: int) -> Outcome:
    """The experiment, its seeds measured by up to `jobs` processes.

    Each process measures one seed after the other into the folder of the request, with its share of
    the cores; then the experiment goes on with what it finds there, as after an interruption, and
    measures what no process did. experiment: a function that can be pickled. Raises what it raises.
    """
    jobs = min(jobs, request.seeds)
    if jobs == 1:
        return experiment(request)
    request.refuse_another()
    each = max(1, torch.get_num_threads() // jobs)
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        tasks = {
            pool.submit(_measure, experiment, request.part(seed), each): seed
            for seed in request.all_seeds
        }
        for task in as_completed(tasks):
            error = task.exception()
            if error is not None:  # the experiment itself says more of it, or does without
                request.say(f"seed {tasks[task]}, ahead: {type(error).__name__}: {error}")
    return experiment(replace(request, resume=True))


def alone(request: Request, name: str) -> AbstractContextManager[bool]:
    """For what seeds share: one process at a time is inside the block of this name."""
    return held(request.out / "locks" / name, wait=True) if request.own else nullcontext(True)


def shared(
    request: Request, names: Collection[str], one: Callable[[str, int], T]
) -> dict[str, list[T]]:
    """By name, one(name, seed) for every seed, which is to write it into the folder and to read it
    back.

    Where processes measure ahead, each takes one part after the other that no other is at, those of
    its own seeds first, and then raises Partial: what it did is found later.
    """
    parts = [(name, seed) for seed in range(request.seeds) for name in names]
    if not request.own:
        found: dict[str, list[T]] = {name: [] for name in names}
        for name, seed in parts:
            found[name].append(one(name, seed))
        return found
    mine_first = sorted(parts, key=lambda part: part[1] not in request.own)
    locks = request.out / "locks"
    for name, seed in unattended(mine_first, lambda part: locks / f"{part[0]}-seed{part[1]}"):
        one(name, seed)
    raise Partial


def _measure(experiment: Callable[[Request], Outcome], request: Request, threads: int) -> None:
    torch.set_num_threads(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with suppress(Partial):
        experiment(request)


def _end_with_parent() -> None:
    """A process that was killed leaves no others at work in its folder."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
