"""A run in progress: its ledger, the room in memory, the clock, and who is told how far it is."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from torchproof.core.errors import InputError
from torchproof.core.room import Room
from torchproof.evaluate.images import Images
from torchproof.evaluate.ledger import Ledger


class Progress(NamedTuple):
    """How far an evaluation is: `done` of `total` examples of this stage, `broken` by it so far."""

    stage: str
    done: int
    total: int
    broken: int


@dataclass
class Clock:
    """Seconds since the last question, and whether the time is up."""

    limit: float | None
    started: float = field(default_factory=time.monotonic)
    last: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        limit = self.limit
        if limit is not None and not (math.isfinite(limit) and limit > 0):
            remedy = "leave it out for no limit"
            raise InputError(f"max_seconds = {limit!r}", "a number of seconds > 0", remedy)

    def over(self) -> bool:
        return self.limit is not None and time.monotonic() - self.started > self.limit

    def lap(self) -> float:
        """Seconds since the last lap."""
        now = time.monotonic()
        seconds, self.last = now - self.last, now
        return seconds


@dataclass
class Course:
    """What the stages of an evaluation share."""

    ledger: Ledger
    images: Images
    room: Room
    clock: Clock
    progress: Callable[[Progress], None] | None = None

    def work_off(
        self, pending: Callable[[], list[int]], attack: Callable[[list[int]], object]
    ) -> None:
        """Attacks the rows that are pending until there are none or the time is up; out of memory
        costs what was in flight.
        """
        while not self.clock.over():
            rows = pending()
            if not rows:
                return
            self.clock.lap()
            if self.room.survives(partial(attack, rows)):
                return

    def tell(self, stage: str, done: int, total: int, broken: int) -> None:
        if self.progress is not None:
            self.progress(Progress(stage, done, total, broken))
