"""Targeted evaluation: an example is lost where an attack moves it to one given class, and nowhere
else. Which class that is, the objectives that want it, and the suites that use them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from torchproof.attack.catalogue import apgd, pgd
from torchproof.attack.combine import Attack, Restarts
from torchproof.attack.fab import FAB
from torchproof.attack.smoothed import Smoothed
from torchproof.attack.square import Square
from torchproof.attack.starts import Zero
from torchproof.core.errors import InputError
from torchproof.core.norms import L0
from torchproof.core.objectives import (
    DLR,
    CrossEntropy,
    Goal,
    Margin,
    Objective,
    Targeted,
    TargetedDLR,
    TargetedMargin,
    margin,
)
from torchproof.core.threats import AnyThreat
from torchproof.evaluate.member import Member, Suite
from torchproof.evaluate.subject import Examples
from torchproof.evaluate.suites import bounded

Aim = int | Tensor


@dataclass(frozen=True)
class TargetMargin(Objective):
    """z_t - max_{j != t} z_j (Carlini and Wagner 2017, f_6): only the target t itself wins."""

    targeted: ClassVar[bool] = True
    offers: ClassVar[frozenset[str]] = frozenset({"boundary"})

    def loss(self, out: Tensor, goal: Goal) -> Tensor:
        return -margin(out, goal.target)

    def won(self, out: Tensor, goal: Goal) -> Tensor:
        return out.argmax(1) == goal.target


def aimed(examples: Examples, target: Aim | None, n: int | None) -> Examples:
    """The examples with the class that each is to be moved to, those of that class left out.

    target: one class for all, or (N,) int64, one for each example of the data. Raises InputError
    for anything else, and where no example is of another class.
    """
    if target is None:
        return examples
    count = len(examples.y)
    if isinstance(target, int) and not isinstance(target, bool):
        text, classes = f"class {target}", torch.full((count,), target)
    else:
        classes = _checked(target, count, n).cpu()[:count]
        digest = hashlib.sha256(classes.contiguous().numpy().tobytes()).hexdigest()[:16]
        text = f"one class per example ({digest})"
    if int(classes.min()) < 0:
        raise InputError(f"target = {int(classes.min())}", "classes >= 0", "count classes from 0")
    kept = classes != examples.y.cpu()
    if not bool(kept.any()):
        given = f"{count} examples, all of the class they are to be moved to ({text})"
        raise InputError(given, "some of another class", "choose another target")
    rows = kept.nonzero()[:, 0]
    x, y = (t[rows.to(t.device)] for t in (examples.x, examples.y))
    ids, left = examples.ids[rows], count - len(rows)
    return replace(
        examples, x=x, y=y, ids=ids, every=ids, target=classes[rows], aim=text, left_out=left
    )


def _checked(target: Any, count: int, n: int | None) -> Tensor:
    right = isinstance(target, Tensor) and target.dtype == torch.int64 and target.dim() == 1
    if right and (len(target) == count or (n is not None and len(target) > count)):
        return target  # type: ignore[no-any-return]
    shape = f"{target.dtype}, shape {tuple(target.shape)}" if isinstance(target, Tensor) else target
    raise InputError(
        f"target = {shape}", f"a class, or an int64 tensor ({count},)", "write target=3"
    )


# What an untargeted objective becomes; the search stays as it is.
_TURNED: dict[type[Objective], Objective] = {
    CrossEntropy: Targeted(),
    Targeted: Targeted(),
    **{kind: TargetMargin() for kind in (Margin, DLR, TargetedMargin, TargetedDLR, TargetMargin)},
}


def turned(member: Member) -> Member:
    """The member with an objective that only the target satisfies: the cross-entropy or the margin
    of that class, once per restart.

    Raises InputError for a member that chooses targets by itself and an objective without such a
    form.
    """
    objective = type(member.attack.objective)
    if member.aim or objective not in _TURNED:
        known = ", ".join(kind.__name__ for kind in _TURNED)
        given = f"{member.name} with {objective.__name__}" + (", aimed" if member.aim else "")
        raise InputError(f"{given}, and a target", f"one of {known}", "choose another attack")
    attack = replace(member.attack, objective=_TURNED[objective], targets=0)
    return Member(member.name, attack, source=member.source, who=member.who)


def _gradient(threat: AnyThreat, steps: int, objective: Objective) -> Attack:
    """APGD, for L0 PGD from the clean point."""
    if isinstance(bounded(threat).norm, L0):
        return pgd(threat, steps, objective=objective, start=Zero())
    return apgd(threat, steps, objective)


def _blind(threat: AnyThreat, queries: int) -> tuple[Member, ...]:
    """Square, which knows no L0."""
    if isinstance(bounded(threat).norm, L0):
        return ()
    attack = Attack(threat, TargetMargin(), Square(queries))
    return (Member("Square", attack, source="Andriushchenko et al. 2020"),)


def _opening(threat: AnyThreat) -> tuple[Member, ...]:
    source = "Madry et al. 2018"
    return (
        Member("PGD-20-margin", pgd(threat, 20, objective=TargetMargin()), source=source),
        Member("PGD-20-CE", pgd(threat, 20, objective=Targeted()), source=source),
    )


def _long(threat: AnyThreat, steps: int, restarts: int = 1) -> tuple[Member, ...]:
    source = "Croce and Hein 2020a"
    margins = _gradient(threat, steps, TargetMargin())
    repeated = Restarts(margins, restarts) if margins.search.random else margins
    return (
        Member("APGD-CE", _gradient(threat, steps, Targeted()), source=source),
        Member("APGD-margin", repeated, source=source),
    )


def _quick(threat: AnyThreat) -> Suite:
    return Suite(_opening(threat))


def _fast(threat: AnyThreat) -> Suite:
    return Suite((*_opening(threat), *_long(threat, 50)[1:], *_blind(threat, 200)))


def _thorough(threat: AnyThreat) -> Suite:
    smooth = Attack(threat, TargetMargin(), pgd(threat, 100).search, wrap=Smoothed)
    reserve = (Member("PGD-100-smoothed", smooth, source="Athalye et al. 2018"),)
    return Suite((*_opening(threat), *_long(threat, 100, 3), *_blind(threat, 1000)), reserve)


def _standard(threat: AnyThreat) -> Suite:
    fab: tuple[Member, ...] = ()
    if not isinstance(bounded(threat).norm, L0):
        attack = Attack(threat, TargetMargin(), FAB(100))
        fab = (Member("FAB", attack, source="Croce and Hein 2020b"),)
    return Suite((*_long(threat, 100), *fab, *_blind(threat, 5000)))


def _rand(threat: AnyThreat) -> Suite:
    return Suite(_long(threat, 100), draws=20)


# The suites by their usual names, with budgets for one target instead of nine.
TARGETED: dict[str, Callable[[AnyThreat], Suite]] = {
    "quick": _quick,
    "fast": _fast,
    "thorough": _thorough,
    "standard": _standard,
    "rand": _rand,
}
