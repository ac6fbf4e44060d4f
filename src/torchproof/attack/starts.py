"""Where a search starts inside its set."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from torchproof.core.errors import InputError
from torchproof.core.sets import Set


@dataclass(frozen=True)
class Start(ABC):
    """A rule for the first point; `random` says whether it differs from key to key."""

    random: ClassVar[bool] = True

    @abstractmethod
    def __call__(self, set: Set, key: Tensor) -> Any:
        """One point of the set per problem."""


class Zero(Start):
    """The unperturbed point."""

    random: ClassVar[bool] = False

    def __call__(self, set: Set, key: Tensor) -> Any:
        return set.zero()


class Uniform(Start):
    """Evenly over the ball, then brought into the box (Madry et al. 2018)."""

    def __call__(self, set: Set, key: Tensor) -> Any:
        return set.sample(key)


class Sphere(Start):
    """At full distance, then brought into the box (APGD, Croce and Hein 2020a)."""

    def __call__(self, set: Set, key: Tensor) -> Any:
        return set.sphere(key)


class Corner(Start):
    """One step of full length along random noise: in Linf +eps or -eps in each coordinate (GAMA,
    Sriramanan et al. 2020), in L2 a point of the sphere, in L1 a vertex; brought into the box.
    """

    def __call__(self, set: Set, key: Tensor) -> Any:
        noise: Any = set.sphere(key)
        start: Any = set.zero()
        return set.advance(start, noise, 1.0)


@dataclass(frozen=True)
class Gaussian(Start):
    """Small normal noise of standard deviation `sigma` in input units (TRADES and MART use
    0.001).
    """

    sigma: float = 0.001

    def __post_init__(self) -> None:
        if not self.sigma > 0:
            raise InputError(f"sigma = {self.sigma!r}", "a number > 0", "use Zero() for no noise")

    def __call__(self, set: Set, key: Tensor) -> Any:
        return set.gaussian(key, self.sigma)
