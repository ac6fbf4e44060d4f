"""Evaluating a model that may reject: an example is lost where it is misclassified and accepted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torchproof.attack.catalogue import pgd
from torchproof.attack.combine import EveryTarget
from torchproof.core.errors import InputError
from torchproof.core.objectives import Classification, Margin
from torchproof.core.rejection import Heedless, Rejecting
from torchproof.evaluate.member import Member, Suite


def aware(suite: Suite, rejecting: Rejecting, own: bool) -> Suite:
    """The suite with objectives that have to be accepted too; `own`: it is the caller's.

    A named suite goes without members whose search needs a decision boundary (FAB), which the two
    conditions together have not; `missing` names them. It ends with one that aims at the three
    likeliest wrong classes, heedless of rejection on its way. Raises InputError for such a member
    of the caller's own, for other objectives than misclassification, and for averaged answers.
    """
    if suite.draws > 1:
        given = f"a model that may reject, averaged over {suite.draws} draws"
        raise InputError(given, "one answer", "choose another suite, or EOT around its attacks")
    members, reserve = (
        [_aware(m, rejecting) for m in members if own or not _bound(m)]
        for members in (suite.members, suite.reserve)
    )
    return Suite(members if own else [*members, _heedless(suite, rejecting)], reserve)


def _heedless(suite: Suite, rejecting: Rejecting) -> Member:
    objective = Heedless(replace(rejecting, inner=Margin()))
    attack = pgd(suite.members[0].attack.threat, 20, objective=objective)
    return Member("PGD-20-class", EveryTarget(attack, 3), source="Tramer et al. 2020")


def missing(suites: Sequence[Suite]) -> list[str]:
    """The names of the members that `aware` leaves out of named suites."""
    every = [m for suite in suites for m in (*suite.members, *suite.reserve)]
    return sorted({m.name for m in every if _bound(m)})


def _bound(member: Member) -> bool:
    return "boundary" in member.attack.search.needs


def _aware(member: Member, rejecting: Rejecting) -> Member:
    objective = member.attack.objective
    if isinstance(objective, Rejecting):
        if objective.threshold != rejecting.threshold:
            given = f"{member.name} with the threshold {objective.threshold!r}"
            raise InputError(given, f"{rejecting.threshold!r}", "use the same threshold")
        return member
    if not isinstance(objective, Classification):
        given = f"{member.name} with {objective!r}, against a model that may reject"
        raise InputError(given, "an objective of misclassification", "pass Rejecting(...)")
    attack = replace(member.attack, objective=replace(rejecting, inner=objective))
    return Member(member.name, attack, source=member.source, who=member.who, aim=member.aim)
