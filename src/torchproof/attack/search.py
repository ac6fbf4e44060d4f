"""A search: two pure functions, `init` and `step`, that never see the model, x or y (the pair
optax has).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from torchproof.attack.cases import Point
from torchproof.core.norms import Norm
from torchproof.core.sets import Set


@dataclass(frozen=True)
class State:
    """Where to ask next, and how many steps were taken; every leaf (P, ...), no two sharing
    storage.
    """

    delta: Any
    t: Tensor


class Search(ABC):
    """How to look for the worst point of a set.

    `steps` is the number of answers it uses; evaluation then asks once more, by value only, about
    the last point. `gradient`: does it need gradients? `even`: does every job take all steps, and
    none of them look at a score? `wanders`: does it also ask about points outside the set, which
    never count? `needs`: what threat, site and objective have to offer; `norms`: the norms it
    knows, None for all.
    """

    gradient: ClassVar[bool] = True
    even: ClassVar[bool] = False
    wanders: ClassVar[bool] = False
    needs: ClassVar[frozenset[str]] = frozenset()
    norms: ClassVar[frozenset[type[Norm]] | None] = None

    def __init_subclass__(cls) -> None:
        """A search is not even unless it says so itself, whatever the one that it derives from."""
        cls.even = cls.__dict__.get("even", False)

    @property
    @abstractmethod
    def steps(self) -> int:
        """Number of answers used per job."""

    @abstractmethod
    def init(self, set: Set, key: Tensor) -> Any:
        """The state before the first question; asks nothing."""

    @abstractmethod
    def step(self, set: Set, key: Tensor, state: Any, point: Point) -> Any:
        """The next state, from the answer about `state.delta`."""

    @property
    def random(self) -> bool:
        """Does the key matter? If not, restarts would repeat the same run."""
        return True
