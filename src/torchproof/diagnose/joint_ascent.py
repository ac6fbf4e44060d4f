"""The worst weights of a ball, with or without an adversary at the inputs who moves at the same
time (Stutz, Hein and Schiele 2021, section 4 and appendix).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from torchproof.attack.cases import Point
from torchproof.attack.combine import Attack
from torchproof.attack.pgd import PGD
from torchproof.attack.run import Run
from torchproof.attack.search import State
from torchproof.attack.starts import Start
from torchproof.core import keys
from torchproof.core.errors import InputError
from torchproof.core.objectives import CrossEntropy, Goal
from torchproof.core.sets import Product, Set
from torchproof.core.threats import Both, Relative, Threat
from torchproof.core.values import expand

INPUTS = ""  # the leaf of the inputs among those of the weights


@dataclass(frozen=True)
class HighestLoss(CrossEntropy):
    """The cross-entropy, which also ranks points; nothing is ever won, so that the point with the
    highest loss is kept whether or not it fools the network.
    """

    def won(self, out: Any, goal: Goal) -> Tensor:
        return torch.zeros(len(out), dtype=torch.bool, device=out.device)

    def score(self, out: Any, goal: Goal) -> Tensor:
        return self.loss(out, goal)


class EvenLength(Start):
    """Inputs evenly in their balls; weights in a random direction, at a length that is even between
    0 and the radius.
    """

    def __call__(self, set: Set, key: Tensor) -> Any:
        assert isinstance(set, Product), "weights are several tensors"
        start = {}
        for name, part in set.parts.items():
            own = keys.mix(key, name)
            if name == INPUTS:
                start[name] = part.sample(own)
                continue
            point = part.sphere(own)
            length = keys.uniform(keys.mix(own, "length"), 0, (), dtype=point.dtype)
            start[name] = point * expand(length, point)
        return start


@dataclass(frozen=True)
class JointAscent(PGD):
    """PGD whose steps are `length` radii in the inputs and `stride_of_weights` radii in every
    tensor of weights, each along its own normalised gradient.
    """

    start: Start = field(default_factory=EvenLength)
    stride_of_weights: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.stride_of_weights < math.inf:
            given = f"stride_of_weights = {self.stride_of_weights!r}"
            raise InputError(given, "a number > 0, in radii", "write 0.33 for a third")

    def step(self, set: Set, key: Tensor, state: Any, point: Point) -> State:
        assert isinstance(set, Product), "weights are several tensors"
        grad: Any = point.grad
        inputs = self.stride(state.t, point.loss)
        delta = {
            name: part.advance(
                state.delta[name], grad[name], inputs if name == INPUTS else self.stride_of_weights
            )
            for name, part in set.parts.items()
        }
        return State(delta, state.t + 1)


def worst_weights(
    model: nn.Module, x: Tensor, y: Tensor, threat: Threat | None, within: Relative,
    search: JointAscent, starts: int, run: Run,
) -> tuple[dict[str, Tensor], float]:  # fmt: skip
    """The perturbation found, parameter name -> tensor, and the mean cross-entropy of x under it,
    the highest over all steps and starts.

    x (B, C, H, W), y (B,): one batch, for which there is one perturbation of the weights; threat:
    what inputs may do in the same ascent, None for the clean loss.
    """
    site = within if threat is None else Both(threat, within)
    attack = Attack(site, HighestLoss(), search, restarts=starts)
    found = attack(model, x, y, run=replace(run, patience=math.inf, last=False))
    assert isinstance(found.value, dict)
    shift = {name: v[0] for name, v in found.value.items() if name != INPUTS}
    return shift, float(found.score[0])
