"""Every attack by its name in the field, for constructor expressions and `torchproof list attacks`.

Each entry makes an `Attack` from a threat; the first line of its docstring is what the list shows.
Steps `length` are in units of eps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torchproof.attack import starts
from torchproof.attack.apgd import APGD
from torchproof.attack.combine import Attack, Chain, EveryTarget, Restarts
from torchproof.attack.fab import FAB
from torchproof.attack.fgsm import FGSM
from torchproof.attack.oracle import EOT
from torchproof.attack.pgd import PGD, MomentumPGD, NesterovPGD
from torchproof.attack.square import Square
from torchproof.attack.starts import Sphere, Start, Uniform, Zero
from torchproof.core import objectives, schedules
from torchproof.core.objectives import (
    DLR,
    CrossEntropy,
    Margin,
    Objective,
    TargetedDLR,
    TargetedMargin,
)
from torchproof.core.schedules import Constant, Schedule
from torchproof.core.threats import AnyThreat


def fgsm(threat: AnyThreat, objective: Objective = CrossEntropy()) -> Attack:
    """One step to the worst point of the linearised loss (Goodfellow et al. 2015)."""
    return Attack(threat, objective, FGSM())


def pgd(
    threat: AnyThreat,
    steps: int = 20,
    length: float | None = None,
    objective: Objective = CrossEntropy(),
    start: Start = Uniform(),
    schedule: Schedule = Constant(),
) -> Attack:
    """Projected gradient ascent from a random start (Madry et al. 2018)."""
    return Attack(threat, objective, PGD(steps, length, start, schedule))


def mi_fgsm(
    threat: AnyThreat,
    steps: int = 10,
    length: float = 0.1,
    decay: float = 1.0,
    objective: Objective = CrossEntropy(),
    start: Start = Zero(),
) -> Attack:
    """PGD with momentum, for transfer between models (Dong et al. 2018)."""
    return Attack(threat, objective, MomentumPGD(steps, length, start, decay=decay))


def ni_fgsm(
    threat: AnyThreat,
    steps: int = 10,
    length: float = 0.1,
    decay: float = 1.0,
    objective: Objective = CrossEntropy(),
    start: Start = Zero(),
) -> Attack:
    """PGD with Nesterov momentum, for transfer between models (Lin et al. 2020)."""
    return Attack(threat, objective, NesterovPGD(steps, length, start, decay=decay))


def apgd(
    threat: AnyThreat,
    steps: int = 100,
    objective: Objective = CrossEntropy(),
    start: Start = Sphere(),
) -> Attack:
    """PGD that sets its own step size, on any objective (Croce and Hein 2020a)."""
    return Attack(threat, objective, APGD(steps, start))


def apgd_ce(threat: AnyThreat, steps: int = 100) -> Attack:
    """APGD on cross-entropy, AutoAttack's first member (Croce and Hein 2020a)."""
    return apgd(threat, steps)


def apgd_dlr(threat: AnyThreat, steps: int = 100) -> Attack:
    """APGD on the difference of logits ratio (Croce and Hein 2020a)."""
    return apgd(threat, steps, DLR())


def apgd_t(threat: AnyThreat, steps: int = 100, targets: int = 9) -> Attack:
    """APGD on the targeted DLR at each likely wrong class, AutoAttack's second (Croce and Hein
    2020a).
    """
    return EveryTarget(apgd(threat, steps, TargetedDLR()), targets)


def fab_t(threat: AnyThreat, steps: int = 100, targets: int = 9) -> Attack:
    """The nearest point across each likely class boundary, AutoAttack's third (Croce and Hein
    2020b).
    """
    return EveryTarget(Attack(threat, TargetedMargin(), FAB(steps)), targets)


def square(threat: AnyThreat, queries: int = 5000, share: float = 0.8) -> Attack:
    """Random search by squares, without gradients, AutoAttack's fourth (Andriushchenko et al.
    2020).
    """
    return Attack(threat, Margin(), Square(queries, share))


def averaged(attack: Attack, samples: int = 20) -> Attack:
    """The attack on a randomised model, each answer the mean of `samples` draws (EOT, Athalye et
    al. 2018).
    """
    return replace(attack, wrap=lambda oracle: EOT(oracle, samples))


def chain(*attacks: Attack) -> Chain:
    """Attacks in sequence, each on the survivors of those before; their worst case."""
    return Chain(attacks)


ATTACKS: dict[str, Callable[..., Attack | Chain]] = {
    "FGSM": fgsm,
    "PGD": pgd,
    "MI-FGSM": mi_fgsm,
    "NI-FGSM": ni_fgsm,
    "APGD": apgd,
    "APGD-CE": apgd_ce,
    "APGD-DLR": apgd_dlr,
    "APGD-T": apgd_t,
    "FAB-T": fab_t,
    "Square": square,
    "Restarts": Restarts,
    "EveryTarget": EveryTarget,
    "EOT": averaged,
    "Chain": chain,
}


def _classes(module: Any, names: str) -> dict[str, Callable[..., Any]]:
    return {name: getattr(module, name) for name in names.split()}


OBJECTIVES = _classes(
    # KL is not among them: it needs probabilities as labels, which training methods provide
    objectives,
    "CrossEntropy Margin TargetedMargin DLR TargetedDLR Hypocritical Alternating",
)
STARTS = _classes(starts, "Zero Uniform Sphere Gaussian")
SCHEDULES = _classes(schedules, "Constant Cosine Linear Steps")

# What an expression such as "PGD(steps=50, objective=Margin(), start=Zero())" may name.
NAMES: dict[str, Callable[..., Any]] = {**ATTACKS, **OBJECTIVES, **STARTS, **SCHEDULES}
