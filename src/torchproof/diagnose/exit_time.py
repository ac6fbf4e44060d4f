"""How long a particle driven by alpha-stable noise stays in a well (Imkeller and Pavlyukevich 2006,
on which Simsekli et al. 2019, section 3, build).

    dw = -U'(w) dt + scale dL,  U(w) = height (w / half_width)^2,  left when |w| > half_width.

L has increments SaS(1) dt^(1/alpha): for alpha = 2 it is Brownian motion times sqrt(2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from torchproof.core import keys
from torchproof.core.errors import InputError
from torchproof.diagnose.stable import stable

_STEPS = 64  # drawn at a time


@dataclass(frozen=True)
class Well:
    """U(w) = height (w / half_width)^2; height 0 is free motion in an interval."""

    half_width: float
    height: float

    def __post_init__(self) -> None:
        if not (self.half_width > 0 and self.height >= 0 and math.isfinite(self.height)):
            given = f"a well of half width {self.half_width} and height {self.height}"
            raise InputError(given, "half width > 0 and height >= 0", "write Well(1.0, 1.0)")


@dataclass(frozen=True)
class ExitTime:
    """mean: the time spent inside by all, over the number that left (the maximum-likelihood mean of
    a waiting time with those still inside), with the 95 % interval of exponential waiting.
    """

    mean: float
    low: float
    high: float
    left: int
    walkers: int


def exit_time(
    well: Well, alpha: float, scale: float, *, walkers: int = 1000, step: float = 0.01,
    longest: float = 1000.0, seed: int = 0,
) -> ExitTime:  # fmt: skip
    """Walkers from the bottom of the well, by Euler's scheme with exact increments of the noise.

    step: of time; longest: the time after which who is still inside is counted as such. Raises
    InputError for steps that Euler's scheme does not bear, and where nobody left.
    """
    pull = 2 * well.height / well.half_width**2
    if not (0 < step < longest and scale > 0 and pull * step < 0.5):
        given = f"step {step}, longest {longest}, scale {scale} at a pull of {pull:g}"
        remedy = "make the step smaller, or the well less steep"
        raise InputError(given, "0 < step < longest, scale > 0, step times pull below 0.5", remedy)
    key = keys.mix(seed, "exit time", torch.arange(walkers))
    w = torch.zeros(walkers, dtype=torch.float64)
    most = round(longest / step)
    inside, left, taken = torch.arange(walkers), 0, 0
    size = scale * step ** (1 / alpha)
    for block in range(math.ceil(most / _STEPS)):
        count = min(_STEPS, most - block * _STEPS)
        noise = size * stable(alpha, keys.mix(key[inside], block), count)
        alive = torch.ones(len(inside), dtype=torch.bool)
        for number in range(count):
            taken += int(alive.sum())
            w = torch.where(alive, w * (1 - pull * step) + noise[:, number], w)
            alive &= w.abs() <= well.half_width
        left += int((~alive).sum())
        inside, w = inside[alive], w[alive]
        if not len(inside):
            break
    if not left:
        remedy = "wait longer, or use more noise or more walkers"
        raise InputError(f"no exit of {walkers} within {longest}", "at least one", remedy)
    from scipy.special import gammaincinv  # late, as everywhere: scipy takes its time to load

    total = taken * step
    low, high = (total / float(gammaincinv(left, p)) for p in (0.975, 0.025))
    return ExitTime(total / left, low, high, left, walkers)


def predicted_exit_time(well: Well, alpha: float, scale: float) -> float:
    """The mean exit time that theory predicts.

    alpha < 2, for small noise: alpha / (2 c) (half_width / scale)^alpha, c = Gamma(1 + alpha)
    sin(pi alpha / 2) / pi: the wait for one jump over the edge, whatever the height. alpha = 2,
    exactly: (half_width / scale)^2 times the integral over x in [0, 1] of exp(q x^2)
    sqrt(pi / q) / 2 erf(sqrt(q) x), q = height / scale^2, which grows like exp(q). Raises
    InputError for height 0, where there is no well.
    """
    if well.height == 0:
        raise InputError("a well of height 0", "a height > 0", "use `free_exit_time`")
    from scipy.integrate import quad
    from scipy.special import erf, gamma

    if alpha == 2:
        q = well.height / scale**2
        front = math.sqrt(math.pi / q) / 2
        area, _ = quad(lambda x: front * math.exp(q * x * x) * float(erf(math.sqrt(q) * x)), 0, 1)
        return float((well.half_width / scale) ** 2 * area)
    c = float(gamma(1 + alpha)) * math.sin(math.pi * alpha / 2) / math.pi
    return float(alpha / (2 * c) * (well.half_width / scale) ** alpha)


def free_exit_time(half_width: float, alpha: float, scale: float) -> float:
    """The exact mean without a well: (half_width / scale)^alpha / Gamma(1 + alpha) (Getoor
    1961).
    """
    from scipy.special import gamma

    return float((half_width / scale) ** alpha / gamma(1 + alpha))
