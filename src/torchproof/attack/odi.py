"""Output diversified initialisation (Tashiro, Song and Ermon 2020, arXiv 2003.06878): the first
steps of PGD go along a random direction of the logits, so that restarts end far apart.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from torchproof.attack.combine import Attack
from torchproof.attack.pgd import PGD, check_steps
from torchproof.attack.starts import Start, Uniform
from torchproof.core import keys
from torchproof.core.errors import InputError
from torchproof.core.objectives import Alternating, Classification, Goal, Margin, Objective
from torchproof.core.schedules import Steps
from torchproof.core.threats import AnyThreat


@dataclass(frozen=True)
class RandomDirection(Classification):
    """<w, z> with w uniform in [-1, 1]^K, one for each example and restart (Tashiro et al. 2020).
    At a shared site all examples have the same w.
    """

    def loss(self, out: Tensor, goal: Goal) -> Tensor:
        if goal.key is None:
            raise InputError("a goal without random keys", "one key per problem", "pass Goal.key")
        key = keys.mix(goal.key, "direction")
        w = keys.uniform(key, 0, (out.shape[1],), dtype=out.dtype).mul_(2).sub_(1)
        return (w * out).sum(1)


def odi(
    threat: AnyThreat,
    steps: int = 20,
    length: float = 0.25,
    first: int = 2,
    restarts: int = 20,
    objective: Objective = Margin(),
    start: Start = Uniform(),
) -> Attack:
    """PGD on the margin after steps along a random direction of the logits (Tashiro et al. 2020).

    first: the number of those steps, each of length eps, before `steps` steps of `length` in units
    of eps. Deviation: the worst point counts, not the last one only. Norms other than Linf take
    their own steepest steps.
    """
    check_steps(first, "first")
    check_steps(steps)
    until = (first / (first + steps), 1.0)
    search = PGD(first + steps, 1.0, start, Steps((1.0, length), until))
    return Attack(threat, Alternating((RandomDirection(), objective), until), search, restarts)
