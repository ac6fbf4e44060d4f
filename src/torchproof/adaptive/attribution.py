"""Which part of a defence misleads the attack: flags with it, without it, through a substitute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from torchproof.adaptive.attempt import Attempt
from torchproof.adaptive.judge import Judge
from torchproof.adaptive.predictor import REJECT, DefendedPredictor
from torchproof.adaptive.suspicion import Suspicion, suspicion, weigh
from torchproof.adaptive.trial import carry_out
from torchproof.attack.combine import Attack
from torchproof.core.errors import TorchproofError
from torchproof.core.objectives import Classification, Margin, Objective
from torchproof.core.rejection import Rejecting
from torchproof.core.threats import AnyThreat
from torchproof.core.unaware import Unaware

_GAIN = 5.0  # what breaking every example weighs, in warnings


@dataclass(frozen=True)
class Variant:
    """flags: raised about the defence changed so; cleared: those raised about the whole that are
    not; robust: share left standing, judged on the whole, when the changed one is attacked.
    """

    flags: tuple[str, ...]
    cleared: tuple[str, ...]
    robust: float


@dataclass(frozen=True)
class Component:
    """A part, with what changes when it is taken out or differentiated through the identity; None
    where that cannot be done. score: 2 for a severe flag that goes, 1 for a warning, 5 times the
    share of examples that the same attack breaks in addition; the larger of both changes.
    """

    part: str
    without: Variant | None
    substituted: Variant | None
    score: float


def attribution(
    predictor: DefendedPredictor, x: Tensor, y: Tensor, threat: AnyThreat,
    attempts: Sequence[Attempt], before: Suspicion, judge: Judge, seed: int = 0,
) -> tuple[Component, ...]:  # fmt: skip
    """One component per part, the likeliest culprit first; about images x (N, C, H, W) with labels
    y (N,), attacked by `attempts` as for `before`.
    """
    ids, standing = torch.arange(len(x)), _standing(judge, attempts, x, y, seed)
    found = []
    for part in predictor.parts:
        made = []
        for change in ("without", "substituted"):
            variant = _variant(predictor, part, change)
            made.append(
                None if variant is None else _measured(
                    variant, x, y, ids, threat, attempts, before, judge, seed
                )
            )  # fmt: skip
        scores = [_score(v, before, standing) for v in made if v is not None]
        found.append(Component(part, made[0], made[1], max(scores, default=0.0)))
    return tuple(sorted(found, key=lambda component: -component.score))


def _variant(predictor: DefendedPredictor, part: str, change: str) -> DefendedPredictor | None:
    """The defence with its part changed; None where that makes no model."""
    if change == "substituted" and part == REJECT:
        return None
    made = getattr(predictor, change)(part)
    assert isinstance(made, DefendedPredictor)
    # what it declares is about the whole, and is measured anew
    made.declared = None
    return made


def _measured(
    variant: DefendedPredictor, x: Tensor, y: Tensor, ids: Tensor, threat: AnyThreat,
    attempts: Sequence[Attempt], before: Suspicion, judge: Judge, seed: int,
) -> Variant | None:  # fmt: skip
    """Flags of the variant, and how its attacks fare against the whole; None where it fails."""
    bare = judge.rule is not None and variant.reject is None
    own = [_towards(attempt, bare) for attempt in attempts]
    try:
        after = suspicion(variant, x, y, threat, own, None if bare else judge.rule, seed)
        won = None
        for attempt in own:
            trial = carry_out(replace(attempt, on=variant), judge, x, y, ids, seed)
            won = trial.verdict.lost if won is None else won | trial.verdict.lost
    except (TorchproofError, RuntimeError, ValueError):
        return None  # such as a network that takes no images of the size that the part was fed
    cleared = tuple(name for name in before.names if name not in after.names)
    robust = 1.0 if won is None else float((~won).float().mean())
    return Variant(after.names, cleared, robust)


def _towards(attempt: Attempt, bare: bool) -> Attempt:
    """The attempt on a model that answers with logits alone, if `bare`."""
    if not bare or not isinstance(attempt.attack, Attack):
        return attempt
    attack = replace(attempt.attack, objective=_bare(attempt.attack.objective))
    return replace(attempt, attack=attack)


def _bare(objective: Objective) -> Objective:
    if isinstance(objective, (Unaware, Rejecting)):
        return Unaware(objective.inner)
    return Unaware(objective if isinstance(objective, Classification) else Margin())


def _standing(judge: Judge, attempts: Sequence[Attempt], x: Tensor, y: Tensor, seed: int) -> float:
    """Share that the attempts leave standing on the whole defence."""
    won = judge(x, y).lost
    for attempt in attempts:
        won = won | carry_out(attempt, judge, x, y, torch.arange(len(x)), seed).verdict.lost
    return float((~won).float().mean())


def _score(variant: Variant, before: Suspicion, standing: float) -> float:
    cleared = sum(weigh(flag) for flag in before.flags if flag.name in variant.cleared)
    return cleared + _GAIN * max(0.0, standing - variant.robust)
