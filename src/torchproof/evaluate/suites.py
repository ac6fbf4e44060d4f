"""Suites: which attacks an evaluation runs, in which order, cheap and strong first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

from torchproof.attack.apgd import APGD, checkpoints
from torchproof.attack.around import FromClean
from torchproof.attack.catalogue import apgd, apgd_ce, apgd_dlr, apgd_t, fab_t, pgd, square
from torchproof.attack.combine import Attack, EveryTarget, Restarts
from torchproof.attack.give_up import GiveUp, Levels, Slope
from torchproof.attack.regional import Regions
from torchproof.attack.smoothed import Smoothed
from torchproof.attack.square import Square
from torchproof.attack.starts import Uniform, Zero
from torchproof.core.errors import InputError
from torchproof.core.norms import L0, L1, L2, Linf, Norm, name_of
from torchproof.core.objectives import CrossEntropy, Margin, TargetedMargin
from torchproof.core.schedules import Cosine
from torchproof.core.threats import AnyThreat, Region, Threat
from torchproof.evaluate.member import Member, Nearest, Suite

AUTOATTACK = "Croce and Hein 2020a (AutoAttack)"
SQUARE = "Andriushchenko et al. 2020"


def confined(threat: AnyThreat) -> bool:
    """May images change in a region only?"""
    return isinstance(threat, (Region, Regions))


def bounded(threat: AnyThreat) -> Threat:
    """The ball around single inputs that a threat consists of; raises InputError for any other,
    and for one that allows more than images in [0, 1].
    """
    ball = threat.threat if isinstance(threat, (Region, Regions)) else threat
    if isinstance(ball, Threat) and "image" in ball.site.offers:
        if ball.low < 0 or ball.high > 1:
            given = f"the threat {ball} in the box [{ball.low:g}, {ball.high:g}]"
            remedy = "make the normalisation the first layer of the model"
            raise InputError(given, "a box inside [0, 1], where images are", remedy)
        return ball
    at = f"at the site {type(threat.site).__name__}" if hasattr(threat, "site") else repr(threat)
    raise InputError(
        f"the threat {type(threat).__name__} {at}",
        "a bounded perturbation of each input: Threat(norm, eps), a Region or Regions of one",
        "attack weights, layers and universal perturbations with Attack(...) itself",
    )


def _autoattack(threat: AnyThreat) -> Suite:
    return Suite(
        (
            Member("APGD-CE", apgd_ce(threat), source=AUTOATTACK),
            Member("APGD-T", apgd_t(threat), source=AUTOATTACK),
            Member("FAB-T", fab_t(threat), source="Croce and Hein 2020b"),
            Member("Square", square(threat), source=SQUARE),
        )
    )


def _sparse(threat: AnyThreat) -> Suite:
    # from the clean point: a random sparse start would have to be undone first
    margin = pgd(threat, 100, objective=Margin(), start=Zero())
    targeted = EveryTarget(pgd(threat, 100, objective=TargetedMargin()), 9)
    return Suite(
        (
            Member("PGD-100-margin", margin, source="Madry et al. 2018"),
            Member("PGD-100-T", targeted, source="Gowal et al. 2019 (MultiTargeted)"),
        )
    )


_STANDARD: dict[type[Norm], Callable[[AnyThreat], Suite]] = {
    Linf: _autoattack,
    L2: _autoattack,
    L1: _autoattack,
    L0: _sparse,
}


def _of_norm(suite: str, threat: AnyThreat) -> Callable[[AnyThreat], Suite]:
    norm = bounded(threat).norm
    if type(norm) not in _STANDARD:
        known = ", ".join(sorted(k.__name__ for k in _STANDARD))
        raise InputError(
            f"the suite {suite} for the norm {name_of(norm)}",
            f"one of the norms {known}",
            "use suite='quick', which serves every norm",
        )
    return _STANDARD[type(norm)]


def quick(threat: AnyThreat) -> Suite:
    """PGD-20 on the margin and on cross-entropy: a first look, for every norm."""
    source = "Madry et al. 2018"
    return Suite(
        (
            Member("PGD-20-margin", pgd(threat, 20, objective=Margin()), source=source),
            Member("PGD-20-CE", pgd(threat, 20), source=source),
        )
    )


def standard(threat: AnyThreat) -> Suite:
    """The members of AutoAttack with its budgets: APGD-CE, APGD-T, FAB-T, Square; about 9,000
    evaluations per robust example.

    For L0 PGD on margins serves (APGD's momentum is no help there). Raises InputError for a norm of
    any other kind.
    """
    return _of_norm("standard", threat)(threat)


# Where a run is given up: levels are margins in units of the clean one, fitted on networks that no
# comparison uses (benchmarks/levels.py), where they lost no win.
_TARGETED = GiveUp(APGD(10, Zero()), (2, 3, 5, 7), Levels((2.5, 2.0, 1.2, 0.8)), watch="loss")
_NEAR, _CLOSE, _EDGE = Nearest(0.5), Nearest(0.3), Nearest(0.1)


def _rising(steps: int, watch: Literal["score", "loss"]) -> GiveUp:
    """APGD that stops at a checkpoint from which its progress does not lead to the boundary."""
    return GiveUp(APGD(steps), tuple(checkpoints(steps)), Slope(8.0), watch)


# For Square, which starts slowly on some examples that it breaks in the end: `_PATIENT` is for
# those near the boundary.
_EAGER = {100: 0.6, 200: 0.4, 400: 0.25, 800: 0.15, 1600: 0.08}
_PATIENT = {400: 0.35, 800: 0.2, 1600: 0.1}


def _squares(threat: AnyThreat, queries: int, levels: Mapping[int, float]) -> Attack:
    """Square for as long as its margin, in units of the clean one, falls below the levels."""
    used = {q: level for q, level in levels.items() if q < queries}
    rule = Levels(tuple(used.values()))
    return Attack(threat, Margin(), GiveUp(FromClean(Square(queries)), tuple(used), rule))


def _opening(threat: AnyThreat) -> list[Member]:
    """A short margin attack, then a few steps to each class: nearly all that ever breaks."""
    margin = pgd(threat, 8, 1.0, Margin(), Uniform(), Cosine())
    each = EveryTarget(Attack(threat, TargetedMargin(), _TARGETED), 9)
    return [
        Member("PGD-8-margin", margin, source="Madry et al. 2018"),
        Member("APGD-10-T", each, source=AUTOATTACK),
    ]


def _smooth(threat: AnyThreat) -> Member:
    """For gradients that mislead: each averaged over eight points around."""
    attack = Attack(threat, Margin(), APGD(100), wrap=Smoothed)
    return Member("APGD-100-smoothed", attack, source="Athalye et al. 2018")


def fast(threat: AnyThreat) -> Suite:
    """For development loops: 200 to 310 evaluations per robust example on the benchmark's networks
    (1,320 for an example that nothing gives up), rarely a point above AutoAttack; after a red flag
    about gradients, APGD on averaged ones.
    """
    if isinstance(bounded(threat).norm, L0):
        return quick(threat)
    aimed = Attack(threat, TargetedMargin(), _rising(50, "loss"))
    return Suite(
        (
            *_opening(threat),
            Member("APGD-50-aimed", aimed, source=AUTOATTACK, who=_NEAR, aim="APGD-10-T"),
            Member("Square-eager", _squares(threat, 1000, _EAGER), source=SQUARE),
        ),
        reserve=(_smooth(threat),),
    )


def thorough(threat: AnyThreat) -> Suite:
    """As strong as AutoAttack at a tenth of its evaluations or less on the benchmark's networks;
    the default. An example that nothing gives up costs up to 13,700.

    Most of the budget goes where something can still be won: a short attack on everyone, then
    full-length ones on examples whose margin came within a half, a third or a tenth of the clean
    one, and Square for as long as it makes progress. Where a red flag says that gradients mislead,
    APGD on gradients averaged over noise and the members of `standard` run on what is left.
    """
    full = standard(threat)
    if isinstance(bounded(threat).norm, L0):
        return full
    ce = Attack(threat, CrossEntropy(), _rising(100, "score"))
    aimed = Attack(threat, TargetedMargin(), _rising(100, "loss"))
    again = _squares(threat, 5000, _PATIENT)
    return Suite(
        (
            *_opening(threat),
            Member("APGD-25-CE", apgd(threat, 25), source=AUTOATTACK),
            Member("APGD-100-aimed", aimed, source=AUTOATTACK, who=_NEAR, aim="APGD-10-T"),
            Member("APGD-100-CE", ce, source=AUTOATTACK, who=_NEAR),
            Member("APGD-100-CE-full", Restarts(apgd_ce(threat), 3), source=AUTOATTACK, who=_CLOSE),
            Member("APGD-100-CE-more", Restarts(apgd_ce(threat), 3), source=AUTOATTACK, who=_EDGE),
            Member("APGD-100-T", EveryTarget(aimed, 9), source=AUTOATTACK, who=_EDGE),
            Member("Square-eager", _squares(threat, 5000, _EAGER), source=SQUARE),
            Member("Square-patient", again, source=SQUARE, who=_CLOSE),
        ),
        reserve=(_smooth(threat), *full.members),
    )


def rand(threat: AnyThreat) -> Suite:
    """For randomised defences: APGD-CE and APGD-DLR on predictions averaged over 20 draws (EOT,
    Athalye et al. 2018), each once for every norm, as AutoAttack's version of that name.
    """
    return Suite(
        (
            Member("APGD-CE", apgd(threat), source=AUTOATTACK),
            Member("APGD-DLR", apgd_dlr(threat), source=AUTOATTACK),
        ),
        draws=20,
    )


SUITES: dict[str, Callable[[AnyThreat], Suite]] = {
    "quick": quick,
    "fast": fast,
    "thorough": thorough,
    "standard": standard,
    "rand": rand,
}
