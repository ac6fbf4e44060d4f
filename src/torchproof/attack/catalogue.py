"""Every attack by its name in the field, for constructor expressions and `torchproof list attacks`.

Each entry makes an `Attack` from a threat; the first line of its docstring is what the list shows.
Steps `length` are in units of eps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

from torchproof.attack import starts
from torchproof.attack.alternating import alternating_pgd
from torchproof.attack.apgd import APGD
from torchproof.attack.carlini_wagner import cw
from torchproof.attack.combine import Attack, Chain, EveryTarget, Restarts
from torchproof.attack.ddn import ddn
from torchproof.attack.deepfool import deepfool
from torchproof.attack.fab import FAB
from torchproof.attack.fgsm import FGSM
from torchproof.attack.fmn import fmn
from torchproof.attack.gama import gama_fw, gama_mt, gama_pgd
from torchproof.attack.hop_skip_jump import hop_skip_jump
from torchproof.attack.input_diversity import diverse
from torchproof.attack.joint import joint_pgd
from torchproof.attack.l1_apgd import L1APGD
from torchproof.attack.md import md, mdmt
from torchproof.attack.multi_targeted import multi_targeted
from torchproof.attack.nes import nes, spsa
from torchproof.attack.odi import odi
from torchproof.attack.oracle import EOT
from torchproof.attack.pgd import PGD, MomentumPGD, NesterovPGD, even
from torchproof.attack.regional import regional
from torchproof.attack.square import Square
from torchproof.attack.starts import Start, Uniform, Zero
from torchproof.attack.translation_invariant import translation_invariant
from torchproof.attack.variance_tuning import vmi_fgsm
from torchproof.core import objectives, schedules
from torchproof.core.norms import L1, Norm
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
    length: float | None = None,
    decay: float = 1.0,
    objective: Objective = CrossEntropy(),
    start: Start = Zero(),
) -> Attack:
    """PGD with momentum, for transfer between models (Dong et al. 2018)."""
    return Attack(threat, objective, MomentumPGD(steps, even(steps, length), start, decay=decay))


def ni_fgsm(
    threat: AnyThreat,
    steps: int = 10,
    length: float | None = None,
    decay: float = 1.0,
    objective: Objective = CrossEntropy(),
    start: Start = Zero(),
) -> Attack:
    """PGD with Nesterov momentum, for transfer between models (Lin et al. 2020)."""
    return Attack(threat, objective, NesterovPGD(steps, even(steps, length), start, decay=decay))


class Form(NamedTuple):
    """APGD as AutoAttack runs it in the ball of a norm: the search, APGD-CE's restarts, APGD-T's
    targets.
    """

    search: type[APGD] | type[L1APGD] = APGD
    restarts: int = 1
    targets: int = 9


FORMS: dict[type[Norm], Form] = {L1: Form(L1APGD, restarts=5, targets=5)}


def _form(threat: AnyThreat) -> Form:
    """That of the threat's norm, where the threat offers what it needs."""
    norm: Any = type(getattr(threat, "norm", None))
    form = FORMS.get(norm, Form())
    return form if form.search.needs <= threat.offers | threat.site.offers else Form()


def apgd(
    threat: AnyThreat,
    steps: int = 100,
    objective: Objective = CrossEntropy(),
    start: Start | None = None,
) -> Attack:
    """PGD that sets its own step size, on any objective (Croce and Hein 2020a; 2021 in L1)."""
    search = _form(threat).search(steps)
    return Attack(threat, objective, search if start is None else replace(search, start=start))


def apgd_ce(threat: AnyThreat, steps: int = 100) -> Attack:
    """APGD on cross-entropy, AutoAttack's first member (Croce and Hein 2020a); in L1 from five
    starts.
    """
    return Restarts(apgd(threat, steps), _form(threat).restarts)


def apgd_dlr(threat: AnyThreat, steps: int = 100) -> Attack:
    """APGD on the difference of logits ratio (Croce and Hein 2020a)."""
    return apgd(threat, steps, DLR())


def apgd_t(threat: AnyThreat, steps: int = 100, targets: int | None = None) -> Attack:
    """APGD on the targeted DLR at each likely wrong class, AutoAttack's second (Croce and Hein
    2020a).

    targets: at most so many; by default 9, in L1 5.
    """
    count = _form(threat).targets if targets is None else targets
    return EveryTarget(apgd(threat, steps, TargetedDLR()), count)


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
    inner = attack.wrap
    return replace(attack, wrap=lambda oracle: EOT(inner(oracle), samples))


def chain(*attacks: Attack) -> Chain:
    """Attacks in sequence, each on the survivors of those before; their worst case."""
    return Chain(attacks)


ATTACKS: dict[str, Callable[..., Attack | Chain]] = {
    "FGSM": fgsm,
    "PGD": pgd,
    "MI-FGSM": mi_fgsm,
    "NI-FGSM": ni_fgsm,
    "VMI-FGSM": vmi_fgsm,
    "DI": diverse,
    "TI": translation_invariant,
    "APGD": apgd,
    "APGD-CE": apgd_ce,
    "APGD-DLR": apgd_dlr,
    "APGD-T": apgd_t,
    "FAB-T": fab_t,
    "Square": square,
    "Alternating-PGD": alternating_pgd,
    "MultiTargeted": multi_targeted,
    "GAMA-PGD": gama_pgd,
    "GAMA-FW": gama_fw,
    "GAMA-MT": gama_mt,
    "MD": md,
    "MDMT": mdmt,
    "ODI": odi,
    "NES": nes,
    "SPSA": spsa,
    "Joint-PGD": joint_pgd,
    "HopSkipJump": hop_skip_jump,
    "DeepFool": deepfool,
    "CW": cw,
    "DDN": ddn,
    "FMN": fmn,
    "Regional": regional,
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
STARTS = _classes(starts, "Zero Uniform Sphere Corner Gaussian")
SCHEDULES = _classes(schedules, "Constant Cosine Linear Steps EachStage")

# What an expression such as "PGD(steps=50, objective=Margin(), start=Zero())" may name.
NAMES: dict[str, Callable[..., Any]] = {**ATTACKS, **OBJECTIVES, **STARTS, **SCHEDULES}
