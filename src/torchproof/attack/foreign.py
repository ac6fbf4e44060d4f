"""Points that another library's attack finds, brought into the threat and judged like any other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from torchproof.attack.cases import Point
from torchproof.attack.combine import Attack
from torchproof.attack.search import Search, State
from torchproof.attack.starts import Start
from torchproof.core.errors import InputError, ModelError
from torchproof.core.norms import Norm
from torchproof.core.objectives import Margin, Objective
from torchproof.core.sets import Ball, Set
from torchproof.core.sites import Model
from torchproof.core.threats import AnyThreat, Threat

Call = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Called(Start):
    """What call(x, y) answers, nearest to it in the set; x are the attacked images, y what `model`
    makes of them, which is their label for all that an evaluation attacks.

    low: the lower end of the box of valid values, from which the images are read off. The call
    sees as many images as are begun together, so an attack that draws its random numbers from
    torch's global state depends on the batch size, as it does in its own library.
    """

    model: Model
    call: Call
    low: float = 0.0

    def __call__(self, set: Set, key: Tensor) -> Any:
        if not isinstance(set, Ball):
            given = f"a foreign attack in a {type(set).__name__}"
            raise InputError(given, "a bounded threat to single images", "use our own attacks")
        x = self.low - set.low
        with torch.no_grad():
            y = self.model(x).argmax(1)
        with torch.enable_grad():
            points = self.call(x, y)
        if not isinstance(points, Tensor) or points.shape != x.shape:
            given = f"a foreign attack that answers with {_kind(points)}"
            raise ModelError(given, f"images of shape {tuple(x.shape)}", "return what it made")
        return set.project(points.detach().to(x) - x)


@dataclass(frozen=True)
class OnePoint(Search):
    """Asks about the start, and no more."""

    start: Start
    gradient: ClassVar[bool] = False
    norms: ClassVar[frozenset[type[Norm]] | None] = None

    @property
    def steps(self) -> int:
        return 0

    def init(self, set: Set, key: Tensor) -> State:
        return State(self.start(set, key), torch.zeros_like(key))

    def step(self, set: Set, key: Tensor, state: State, point: Point) -> State:
        return state


def foreign(threat: AnyThreat, model: Model, call: Call, objective: Objective = Margin()) -> Attack:
    """call(x (B, C, H, W), y (B,)) -> images (B, C, H, W), as an attack of ours on `model`.

    `Member("their PGD", foreign(threat, model, torchattacks.PGD(model, eps=8 / 255)))` stands in a
    suite like any other; its ledger counts one evaluation, for what the call asks is not seen.
    """
    low = threat.low if isinstance(threat, Threat) else 0.0
    return Attack(threat, objective, OnePoint(Called(model, call, low)))


def _kind(thing: object) -> str:
    return f"shape {tuple(thing.shape)}" if isinstance(thing, Tensor) else type(thing).__name__
