"""How the radius grows while a network is trained on bounds."""

from __future__ import annotations

from dataclasses import dataclass

from torchproof.core.errors import InputError

MIDDLE, POWER = 0.25, 4  # of the smoothed ramp


@dataclass(frozen=True)
class Ramp:
    """The share of the radius that is due: 0 before `start`, a line up to 1 at `end`, both shares
    of the training in steps (Gowal et al. 2019).

    smoothed: the first quarter of the ramp is a quartic, which the line continues with its slope
    (the schedule of Zhang et al. 2020 on CIFAR-10). Raises InputError unless
    0 <= start < end <= 1.
    """

    start: float = 0.05
    end: float = 0.3
    smoothed: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end <= 1:
            raise InputError(
                f"start = {self.start!r}, end = {self.end!r}",
                "shares of the training with 0 <= start < end <= 1",
                "write Ramp(0.05, 0.3): 10 and 60 of 200 epochs",
            )

    def __call__(self, progress: float) -> float:
        """The share at a progress in [0, 1]."""
        u = min(max((progress - self.start) / (self.end - self.start), 0.0), 1.0)
        if not self.smoothed:
            return u
        slope = POWER * MIDDLE ** (POWER - 1)
        height = slope * (1 - MIDDLE) + MIDDLE**POWER  # of quartic and line, before scaling
        if u < MIDDLE:
            return u**POWER / height
        return (MIDDLE**POWER + slope * (u - MIDDLE)) / height
