"""Stochastic weight averaging (Izmailov et al. 2018), for adversarial training as in Chen et al.
2021.
"""

from __future__ import annotations

from dataclasses import dataclass

from torchproof.core.errors import InputError
from torchproof.train.average import Average
from torchproof.train.ema import refuse_second
from torchproof.train.wrapper import Wrapper


@dataclass(frozen=True)
class Equal:
    """The plain mean of the weights after every step from the share `start` of the run on; before
    that, the newest weights.
    """

    start: float
    renews: bool = True

    def share(self, step: int, steps: int) -> float:
        first = int(self.start * steps)
        return 1.0 if step <= first else 1 / (step - first + 1)


@dataclass(frozen=True)
class SWA(Wrapper):
    """SWA: trains by another method, measures and keeps the mean of the weights over the rest of
    the run after the share `start` (Izmailov et al. 2018).

    Batch statistics of the mean are measured anew on the training images before it is measured or
    kept. Deviation: weights are taken after every step, where the paper takes them once per epoch.
    Raises InputError for a start outside [0, 1) and around another average.
    """

    outermost = True
    start: float = 0.75

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.start < 1:
            raise InputError(f"start = {self.start!r}", "a share in [0, 1)", "0.75 is usual")
        refuse_second(self, self.method)

    @property
    def average(self) -> Average:
        return Equal(self.start)
