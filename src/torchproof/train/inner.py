"""The inner maximisation that AT, TRADES and MART share: PGD that returns its last iterate."""

from __future__ import annotations

import math
from dataclasses import replace

from torch import Tensor, nn

from torchproof.attack.ascend import Run
from torchproof.attack.combine import Attack
from torchproof.attack.pgd import PGD
from torchproof.attack.starts import Start
from torchproof.core.errors import InputError
from torchproof.core.objectives import Objective
from torchproof.core.threats import AnyThreat, Threat
from torchproof.core.values import Value
from torchproof.train.method import Batch


def pgd(
    threat: AnyThreat, objective: Objective, steps: int, length: float, start: Start, ramp: float
) -> Attack:
    """PGD with steps of `length` * eps, for a threat that may grow over the share `ramp` of the
    training.

    Raises InputError for a ramp outside [0, 1] or a threat without eps to grow, and where the
    parts do not fit: a KL objective without a random start has no gradient.
    """
    if not 0 <= ramp <= 1 or (ramp > 0 and not isinstance(threat, Threat)):
        raise InputError(
            f"ramp = {ramp!r} with a {type(threat).__name__}",
            "a share of the training in [0, 1], and a Threat with an eps if it is not 0",
            "write ramp=0.2 to let eps grow over the first fifth",
        )
    return Attack(threat, objective, PGD(steps, length, start))


def _grown(attack: Attack, progress: float, ramp: float) -> Attack:
    """The attack with the eps that is due: a straight line from (nearly) 0, reached after the
    share `ramp`.
    """
    if progress >= ramp or not isinstance(attack.threat, Threat):
        return attack
    eps = attack.threat.eps * max(progress / ramp, 1e-3)
    return replace(attack, threat=replace(attack.threat, eps=eps))


def craft(
    attack: Attack, model: nn.Module, batch: Batch, goal: Tensor | None = None, ramp: float = 0.0
) -> Batch:
    """The batch with adversarial inputs in `adv`, made in eval mode; `goal` replaces the labels in
    the objective.

    The last iterate of the search is taken, as in the papers, not the worst one.
    """
    run = Run(batch.seed, batch.ids, slots=max(len(batch.x), 1), patience=math.inf, last=True)
    due = _grown(attack, batch.progress, ramp)
    found = due(model, batch.x, batch.y if goal is None else goal, run=run)
    forward, backward = (int(n) for n in found.spent.sum(0))
    spent = (batch.spent[0] + forward, batch.spent[1] + backward)
    return replace(batch, adv=_added(batch.x, found.value), spent=spent)


def _added(x: Tensor, value: Value) -> Tensor:
    if not isinstance(value, Tensor):
        raise InputError(
            "a threat that perturbs more than the input",
            "a threat on inputs",
            "wrap the method in AWP for weights",
        )
    return (x + value.to(x.dtype)).clamp_(0, 1)
