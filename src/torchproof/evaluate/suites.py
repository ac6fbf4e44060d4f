"""Suites: which attacks an evaluation runs, in which order, cheap and strong first."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torchproof.attack.catalogue import apgd_ce, apgd_t, fab_t, pgd, square
from torchproof.attack.combine import Attack, EveryTarget
from torchproof.attack.oracle import Quantised
from torchproof.attack.starts import Zero
from torchproof.core.errors import InputError, unknown
from torchproof.core.norms import L0, L1, L2, Linf, Norm, name_of
from torchproof.core.objectives import Margin, TargetedMargin
from torchproof.core.threats import AnyThreat, Region, Threat


@dataclass(frozen=True)
class Member:
    """One attack of a suite.

    `name` identifies it in results, keys its randomness and must not repeat; `settings` is what it
    does, in words; `source` is where it was published.
    """

    name: str
    attack: Attack
    settings: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        if not self.settings:
            object.__setattr__(self, "settings", described(self.attack))

    def rounded(self) -> Member:
        """The same attack, asking about 8-bit images only."""
        wrapped = self.attack.wrap
        attack = replace(self.attack, wrap=lambda oracle: wrapped(Quantised(oracle)))
        return replace(self, attack=attack, settings=f"{self.settings}, on images of 8 bits")


@dataclass(frozen=True)
class _Model:
    """Stands for the plain oracle where a wrapped one is put into words."""


def described(attack: Attack) -> str:
    """The search, the objective, the repetitions and the wrapper, as constructor expressions."""
    parts = [f"{attack.search!r} on {attack.objective!r}"]
    parts += [f"{attack.targets} targets"] if attack.targets else []
    parts += [f"{attack.restarts} restarts"] if attack.restarts > 1 else []
    plain: Any = _Model()
    wrapped = attack.wrap(plain)
    parts += [] if wrapped is plain else [f"asked through {wrapped!r}".replace("_Model()", "model")]
    # the address of an object without a repr of its own differs from run to run
    return re.sub(r" at 0x[0-9a-f]+", "", ", ".join(parts))


def bounded(threat: AnyThreat) -> Threat:
    """The ball around single inputs that a threat consists of; raises InputError for any other."""
    ball = threat.threat if isinstance(threat, Region) else threat
    if isinstance(ball, Threat) and "image" in ball.site.offers:
        return ball
    raise InputError(
        f"the threat {type(threat).__name__} at the site {type(threat.site).__name__}",
        "a bounded perturbation of each input: Threat(norm, eps), or a Region of one",
        "attack weights, layers and universal perturbations with Attack(...) itself",
    )


def _ce(threat: AnyThreat) -> Member:
    return Member("APGD-CE", apgd_ce(threat), source="Croce and Hein 2020a")


def _targeted(threat: AnyThreat) -> Member:
    return Member("APGD-T", apgd_t(threat), source="Croce and Hein 2020a")


def _fab(threat: AnyThreat) -> Member:
    return Member("FAB-T", fab_t(threat), source="Croce and Hein 2020b")


def _square(threat: AnyThreat) -> Member:
    return Member("Square", square(threat), source="Andriushchenko et al. 2020")


def _sparse(threat: AnyThreat) -> Member:
    # from the clean point: a random sparse start would have to be undone first
    attack = pgd(threat, 100, objective=Margin(), start=Zero())
    return Member("PGD-100-margin", attack, source="Madry et al. 2018")


def _sparse_targeted(threat: AnyThreat) -> Member:
    attack = EveryTarget(pgd(threat, 100, objective=TargetedMargin()), 9)
    return Member("PGD-100-T", attack, source="Gowal et al. 2019 (MultiTargeted)")


_STANDARD: dict[type[Norm], tuple[Callable[[AnyThreat], Member], ...]] = {
    Linf: (_ce, _targeted, _fab, _square),
    L2: (_ce, _targeted, _fab),
    L1: (_ce, _targeted),
    L0: (_sparse, _sparse_targeted),
}


def quick(threat: AnyThreat) -> list[Member]:
    """PGD-20 on the margin and on cross-entropy: a first look, for every norm."""
    source = "Madry et al. 2018"
    return [
        Member("PGD-20-margin", pgd(threat, 20, objective=Margin()), source=source),
        Member("PGD-20-CE", pgd(threat, 20), source=source),
    ]


def standard(threat: AnyThreat) -> list[Member]:
    """APGD-CE, APGD-T, then FAB-T (Linf, L2) and Square (Linf), the members of AutoAttack.

    For L1 the two APGD attacks serve, for L0 PGD on margins (APGD's momentum is no help there).
    Raises InputError for a norm of any other kind.
    """
    norm = bounded(threat).norm
    if type(norm) not in _STANDARD:
        known = ", ".join(sorted(k.__name__ for k in _STANDARD))
        raise InputError(
            f"the suite standard for the norm {name_of(norm)}",
            f"one of the norms {known}",
            "use suite='quick', which serves every norm",
        )
    return [make(threat) for make in _STANDARD[type(norm)]]


SUITES: dict[str, Callable[[AnyThreat], list[Member]]] = {"quick": quick, "standard": standard}


def members(
    suite: str | Sequence[Member], threats: Sequence[AnyThreat]
) -> list[tuple[str, Member]]:
    """(label, member) of a whole evaluation: the suite for each threat in turn.

    A label is the member's name, followed by the threat where there are several. Raises UnknownName
    for a suite that no table holds, InputError for an empty or ambiguous list of members.
    """
    if isinstance(suite, str) and suite not in SUITES:
        raise unknown("suite", suite, SUITES)
    if not isinstance(suite, str):
        return _custom(suite, threats)
    several = len(threats) > 1
    return [
        (f"{member.name} {bounded(threat)}" if several else member.name, member)
        for threat in threats
        for member in SUITES[suite](threat)
    ]


def _custom(suite: Sequence[Member], threats: Sequence[AnyThreat]) -> list[tuple[str, Member]]:
    """A caller's own members, whose attacks must be about the threats of the evaluation."""
    names = [member.name for member in suite]
    if not names or len(set(names)) < len(names):
        raise InputError(f"members named {names}", "at least one, no name twice", "rename them")
    for member in suite:
        if ";" in member.name or member.name == "clean" or member.name.startswith("recheck "):
            raise InputError(f"a member named {member.name!r}", "a name of its own", "rename it")
        if not any(member.attack.threat is t or member.attack.threat == t for t in threats):
            raise InputError(
                f"the attack {member.name} on {member.attack.threat}",
                f"an attack on {' or '.join(map(str, threats))}",
                "build the attack with the threat that is evaluated",
            )
    return [(member.name, member) for member in suite]
