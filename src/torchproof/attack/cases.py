"""Pure data of a search: the cases it is about, what an oracle answers, the jobs to do, and what
was found.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from torchproof.core.sets import Set
from torchproof.core.values import Value, leaves, tree


@dataclass(frozen=True)
class Cases:
    """One row per problem: x (P, C, H, W), y (P,) or (P, K), target (P,), the allowed set, key
    (P,).

    At a shared site there is one problem: set and key have one row, x, y and target one per
    example.
    """

    x: Tensor
    y: Tensor
    target: Tensor
    set: Set
    key: Tensor


class Point(NamedTuple):
    """An oracle's answer at one point per problem; all leaves (P, ...).

    loss: what is ascended; score: the yardstick; won: the objective's verdict; grad: the gradient
    of the loss, None when it was not asked for; cost: forward and backward samples spent per
    problem; at: the perturbation the answer is about, where it is not the one asked about;
    undefined: (P,) int64, how many of the gradients that `grad` is made of had entries that were
    NaN or infinite and were put to 0, None where none had.
    """

    loss: Tensor
    score: Tensor
    won: Tensor
    grad: Value | None
    cost: tuple[int, int]
    at: Value | None = None
    undefined: Tensor | None = None


def undefined_in(points: Sequence[Point]) -> Tensor | None:
    """The `undefined` of several answers about the same problems, added up."""
    counts = [point.undefined for point in points if point.undefined is not None]
    return torch.stack(counts).sum(0) if counts else None


@dataclass(frozen=True)
class Jobs:
    """What is to be done, in order: (problem, target, restart), each (J,) int64; target -1 means
    none. `cost` counts the forward samples per problem that it took to draw up the list.
    """

    problem: Tensor
    target: Tensor
    restart: Tensor
    cost: int = 0

    @classmethod
    def one_each(cls, problems: int, target: Tensor | None = None) -> Jobs:
        """One job per problem."""
        every = torch.arange(problems)
        none = torch.full_like(every, -1)
        return cls(every, none if target is None else target.cpu(), torch.zeros_like(every))

    def repeated(self, times: int) -> Jobs:
        """Every job `times` times, as restarts 0, 1, ..."""
        if times == 1:
            return self
        restart = torch.arange(times).repeat(len(self))
        problem, target = (t.repeat_interleave(times) for t in (self.problem, self.target))
        return Jobs(problem, target, restart, self.cost)

    def rows(self, job: Tensor) -> Jobs:
        """Some of the jobs."""
        return Jobs(self.problem[job], self.target[job], self.restart[job], self.cost)

    def __len__(self) -> int:
        return len(self.problem)

    def of_problem(self) -> Iterator[tuple[int, list[int]]]:
        """Each problem with the indices of its jobs, in order of first appearance."""
        order: dict[int, list[int]] = {}
        for job, problem in enumerate(self.problem.tolist()):
            order.setdefault(problem, []).append(job)
        yield from order.items()


@dataclass(frozen=True)
class Found:
    """The result for N problems.

    value: the perturbation, (N, ...) per leaf: the worst point that was seen (evaluation) or the
    last iterate (training); lost: (N,) bool, a winning point inside the set was seen; score: (N,)
    the yardstick there; spent: (N, 2) int64 forward and backward samples; by: (N, 2) the target
    and restart of the job that found it, -1 for none; done: (N,) bool, False where the run was
    stopped first; undefined: (N,) int64, questions whose gradient was NaN or infinite somewhere:
    the search was blind there.
    """

    value: Value
    lost: Tensor
    score: Tensor
    spent: Tensor
    by: Tensor
    done: Tensor
    undefined: Tensor

    @classmethod
    def empty(cls, problems: int, like: Value, device: torch.device) -> Found:
        """Nothing found yet: zero perturbations shaped as the rows of `like`, kept on `device`."""

        def rows(leaf: Tensor) -> Tensor:
            return torch.zeros(problems, *leaf.shape[1:], dtype=leaf.dtype, device=device)

        dtype = next(leaves(like)).dtype
        return cls(
            value=tree(rows, like),
            lost=torch.zeros(problems, dtype=torch.bool),
            score=torch.full((problems,), -torch.inf, dtype=dtype),
            spent=torch.zeros(problems, 2, dtype=torch.int64),
            by=torch.full((problems, 2), -1, dtype=torch.int64),
            done=torch.zeros(problems, dtype=torch.bool),
            undefined=torch.zeros(problems, dtype=torch.int64),
        )
