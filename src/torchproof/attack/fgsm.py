"""FGSM (Goodfellow, Shlens and Szegedy 2015): the maximiser of the linearised loss over the whole
set.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from torchproof.attack.cases import Point
from torchproof.attack.search import Search, State
from torchproof.core.sets import Set


@dataclass(frozen=True)
class FGSM(Search):
    """delta = argmax over the set of <gradient at 0, delta>: x + eps sign(g) for Linf, exact for
    every norm and box.
    """

    even: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"bounded"})

    @property
    def steps(self) -> int:
        return 1

    @property
    def random(self) -> bool:
        return False

    def init(self, set: Set, key: Tensor) -> State:
        return State(set.zero(), key.new_zeros(len(key)))

    def step(self, set: Set, key: Tensor, state: State, point: Point) -> State:
        grad: Any = point.grad
        return State(set.maximiser(grad), state.t + 1)
