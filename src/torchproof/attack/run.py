"""How a search is run: seeds, slots, budgets."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from torchproof.attack.cases import Found
from torchproof.core.errors import InputError


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
