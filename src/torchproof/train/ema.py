"""The exponential moving average of the weights (Gowal et al. 2020, Rebuffi et al. 2021)."""

from __future__ import annotations

from dataclasses import dataclass

from torchproof.core.errors import InputError
from torchproof.train.average import Average
from torchproof.train.method import Method
from torchproof.train.wrapper import Wrapper


def decay_at(step: int, decay: float) -> float:
    """min(decay, (1 + t) / (10 + t)): young averages forget the random start (Rebuffi et al. 2021).

    >>> [round(decay_at(t, 0.995), 3) for t in (0, 10, 10_000)]
    [0.1, 0.55, 0.995]
    """
    return min(decay, (1 + step) / (10 + step))


@dataclass(frozen=True)
class Moving:
    """average <- d average + (1 - d) weights after every step, d = decay_at(step, decay)."""

    decay: float
    renews: bool = False

    def share(self, step: int, steps: int) -> float:
        return 1 - decay_at(step, self.decay)


@dataclass(frozen=True)
class EMA(Wrapper):
    """EMA: trains by another method, measures and keeps an exponential moving average of the
    weights (Gowal et al. 2020).

    decay: per step; it grows to this value as in Rebuffi et al. 2021. Buffers (batch statistics)
    are the network's own. The setting `ema` of a run does the same. Raises InputError for a decay
    outside (0, 1) and around another average.
    """

    outermost = True
    decay: float = 0.995

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.decay < 1:
            raise InputError(f"decay = {self.decay!r}", "a number in (0, 1)", "0.995 is usual")
        refuse_second(self, self.method)

    @property
    def average(self) -> Average:
        return Moving(self.decay)


def refuse_second(outer: Method, inner: Method) -> None:
    """Raises InputError where the inner method averages weights already."""
    if inner.average is not None:
        names = f"{type(outer).__name__} around {type(inner).__name__}"
        raise InputError(names, "one average of the weights", "leave one of them out")
