"""The red flags of an evaluation that a user might have made, and those of the workbench."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from torchproof.adaptive.attached import Attached, OnlyLogits
from torchproof.adaptive.attempt import Attempt
from torchproof.adaptive.binarization import Binarization
from torchproof.adaptive.classes import AsClasses, Tabled
from torchproof.adaptive.declaration import Declaration, declaration
from torchproof.adaptive.judge import DRAWS, Judge
from torchproof.adaptive.trial import carry_out
from torchproof.attack.catalogue import square
from torchproof.attack.combine import Attack, Chain
from torchproof.attack.nes import NES
from torchproof.attack.pgd import PGD
from torchproof.attack.square import Square
from torchproof.attack.starts import Zero
from torchproof.core.errors import InputError
from torchproof.core.matching import Matching
from torchproof.core.objectives import Classification, Margin, Objective, Targeted
from torchproof.core.rejection import Heedless, Rejecting
from torchproof.core.sites import Model
from torchproof.core.threats import AnyThreat
from torchproof.core.unaware import Unaware
from torchproof.evaluate import Member, evaluate
from torchproof.evaluate.flags import SEVERE, WARNING, Flag

QUERIES = 200  # of the attack without gradients, which some flags need
_STEPS, _PAIRS = 8, 12  # of one that takes about as many
# They speak of the size of an evaluation, or of its records, not of the model.
_NOT_MEANT = {
    "few-examples", "small-budget", "float-noise", "unfinished", "unprobed", "recheck-failed",
    "certificate-refuted",
}  # fmt: skip


@dataclass(frozen=True)
class Suspicion:
    """flags: the severe ones first; robust: share of the examples that were asked about that the
    attacks left standing, as an evaluation would report it; declaration: what was measured.
    """

    flags: tuple[Flag, ...]
    robust: float
    declaration: Declaration

    @property
    def names(self) -> tuple[str, ...]:
        """Of the flags, in their order."""
        return tuple(flag.name for flag in self.flags)

    @property
    def weight(self) -> int:
        """2 for each severe flag, 1 for each warning."""
        return sum(weigh(flag) for flag in self.flags)

    def with_flags(self, *more: Flag) -> Suspicion:
        """The same with further flags, each name once."""
        new = [flag for flag in more if flag.name not in self.names]
        order = [SEVERE, WARNING]
        flags = sorted(
            (*self.flags, *new),
            key=lambda f: order.index(f.severity) if f.severity in order else len(order),
        )
        return replace(self, flags=tuple(flags))


def weigh(flag: Flag) -> int:
    """2 for a severe flag, 1 for a warning, 0 for a note."""
    return {SEVERE: 2, WARNING: 1}.get(flag.severity, 0)


def suspicion(
    model: Model, x: Tensor, y: Tensor, threat: AnyThreat, attempts: Sequence[Attempt],
    rule: Rejecting | None = None, seed: int = 0,
) -> Suspicion:  # fmt: skip
    """Evaluates the attempts, and 200 queries without gradients after them, on images x
    (N, C, H, W) with labels y (N,), and returns the flags about the model and the attacks.

    Attempts on other models, and those that match features, are left out.
    """
    told = declaration(model, x, y, seed)
    members = [m for attempt in attempts for m in _members(attempt, rule)]
    asked: Model = Attached(model)
    asked = OnlyLogits(asked) if rule is None else asked
    last = _blind(threat)
    if rule is not None:
        asked = AsClasses(asked, rule)
        last = replace(last, objective=Tabled(Unaware(rule=rule), rule))
    report = evaluate(
        asked,
        (x, y),
        threat,
        [*members, Member("Square" if isinstance(last.search, Square) else "ES", last)],
        seed=seed,
    )
    flags = [
        Flag(f.name, f.severity, f.evidence, f.remedy)
        for f in report.flags
        if f.name not in _NOT_MEANT
    ]
    found = Suspicion(tuple(flags), float(report.robust_accuracy), told)
    turned = None if rule is None else _turned_away(model, x, y, attempts, rule, told, seed)
    return found.with_flags(*_about(told), *(() if turned is None else (turned,)))


def _blind(threat: AnyThreat) -> Attack:
    """Square; where the norm has no squares, differences of answers."""
    try:
        return square(threat, QUERIES)
    except InputError:
        search = PGD(_STEPS, start=Zero())
        return Attack(threat, Margin(), search, wrap=lambda oracle: NES(oracle, _PAIRS, 0.1, 64))


def _turned_away(
    model: Model, x: Tensor, y: Tensor, attempts: Sequence[Attempt], rule: Rejecting,
    told: Declaration, seed: int,
) -> Flag | None:  # fmt: skip
    """The flag about images that lose their class, and are all rejected: the same attempts, once
    judged by class and acceptance, once by the class alone.
    """
    draws = DRAWS if told.measured.properties.random else 1
    whole, half = Judge(model, rule, draws, seed), Judge(model, None, draws, seed)
    lost, moved = whole(x, y).lost, half(x, y).lost
    for attempt in attempts:
        if attempt.on is not None or not isinstance(attempt.attack, Attack):
            continue
        alone = replace(attempt, attack=replace(attempt.attack, objective=_alone(attempt.attack)))
        ids = torch.arange(len(x))
        lost = lost | carry_out(attempt, whole, x, y, ids, seed).verdict.lost
        moved = moved | carry_out(alone, half, x, y, ids, seed).verdict.lost
    left = ~lost
    away = int((moved & left).sum())
    if away < max(3, 0.5 * int(left.sum())):
        return None
    text = (
        f"{away} of {int(left.sum())} examples left standing lose their class to the same attack, "
        "but every such image is rejected"
    )
    remedy = "the attack does not try to be accepted: put the rejection into the objective, or "
    return Flag("all-rejected", SEVERE, text, remedy + "match the features of accepted images")


def _alone(attack: Attack) -> Objective:
    """The attack's objective, judged by the class alone."""
    objective = attack.objective
    if isinstance(objective, (Unaware, Rejecting)):
        return Unaware(objective.inner)
    if isinstance(objective, Heedless):
        return Unaware(Targeted())
    return Unaware(objective if isinstance(objective, Classification) else Margin())


def _members(attempt: Attempt, rule: Rejecting | None) -> list[Member]:
    """The attempt as members of a suite; none where it cannot be one."""
    attack = attempt.attack
    parts = list(attack.attacks) if isinstance(attack, Chain) else [attack]
    if attempt.on is not None or not all(isinstance(part, Attack) for part in parts):
        return []
    made = []
    for number, part in enumerate(parts):
        objective = part.objective
        if isinstance(objective, Matching):
            continue
        if rule is not None:
            part = replace(part, objective=Tabled(objective, rule))
        elif isinstance(objective, Unaware):
            part = replace(part, objective=objective.inner)
        name = attempt.name.replace(";", ",") + (f" {number + 1}" if len(parts) > 1 else "")
        made.append(Member(name, part))
    return made


def _about(told: Declaration) -> list[Flag]:
    """What the measured declaration alone says."""
    found, seen = [], told.measured
    if told.false:
        remedy = "declare what is measured, and evaluate accordingly"
        found.append(Flag("declaration-false", SEVERE, "; ".join(told.false), remedy))
    if seen.autograd:
        text = f"autograd ran {seen.autograd} times inside one forward pass"
        remedy = "differentiate through the optimisation, or attack the static model behind it"
        found.append(Flag("optimises-at-test-time", SEVERE, text, remedy))
    if seen.cut:
        text = "no differentiable way leads from the logits to the input"
        remedy = "replace what cuts the gradient by BPDA, or attack without gradients"
        found.append(Flag("zero-gradients", SEVERE, text, remedy))
    return found


def active_flag(test: Binarization, name: str) -> Flag | None:
    """The flag about a binarization test that was failed; None where it passed or says nothing."""
    if not test.informative or test.passes:
        return None
    text = (
        f"{name} solves {test.found} of {test.problems} problems that have an adversarial example "
        f"by construction (random points: {test.random})"
    )
    remedy = "the attack is too weak for this model: repair its gradients, its loss or its length"
    return Flag("active-test-fails", SEVERE, text, remedy)
