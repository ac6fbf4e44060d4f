"""Schedules: numbers that change with progress, a tensor (P,) in [0, 1], because jobs are at
different steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Schedule(Protocol):
    """A factor for each progress in [0, 1]."""

    def __call__(self, progress: Tensor) -> Tensor: ...


def segment(progress: Tensor, until: Sequence[float]) -> Tensor:
    """(P,) index of the first segment whose end lies beyond the progress; the last one when none
    does.
    """
    ends = torch.tensor(until, dtype=torch.float64, device=progress.device)
    # the nudge keeps step k of n with k/n = end on the far side, whatever the rounding of k/n
    index = torch.bucketize(progress.double() + 1e-6, ends, right=True)
    return index.clamp_max(len(until) - 1)


@dataclass(frozen=True)
class Constant:
    """Always `value`."""

    value: float = 1.0

    def __call__(self, progress: Tensor) -> Tensor:
        return torch.full_like(progress, self.value)


@dataclass(frozen=True)
class Cosine:
    """Half a cosine from `start` down to `end`."""

    start: float = 1.0
    end: float = 0.0

    def __call__(self, progress: Tensor) -> Tensor:
        return self.end + (self.start - self.end) * (1 + (math.pi * progress).cos()) / 2


@dataclass(frozen=True)
class Steps:
    """`values[i]` until progress `until[i]`, then the next."""

    values: tuple[float, ...]
    until: tuple[float, ...]

    def __call__(self, progress: Tensor) -> Tensor:
        values = torch.tensor(self.values, dtype=progress.dtype, device=progress.device)
        return values[segment(progress, self.until)]


@dataclass(frozen=True)
class EachStage:
    """`inner`, begun anew in every stage; stage i ends at progress until[i]."""

    inner: Schedule
    until: tuple[float, ...]

    def __call__(self, progress: Tensor) -> Tensor:
        ends = torch.tensor(self.until, dtype=progress.dtype, device=progress.device)
        starts = torch.cat([ends.new_zeros(1), ends[:-1]])
        stage = segment(progress, self.until)
        length = (ends - starts)[stage].clamp_min(torch.finfo(progress.dtype).tiny)
        return self.inner((1 - (ends[stage] - progress) / length).clamp(0, 1))


@dataclass(frozen=True)
class Linear:
    """From `start` to `end` in a straight line, reached at progress `until` (a warm-up)."""

    start: float = 0.0
    end: float = 1.0
    until: float = 1.0

    def __call__(self, progress: Tensor) -> Tensor:
        return self.start + (self.end - self.start) * (progress / self.until).clamp(0, 1)
