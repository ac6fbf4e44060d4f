"""Of `reproduce adaptive`: a defence under its attacks, its base, and `adapt` on both kinds."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

import torchproof.adaptive
from torchproof.adaptive.adapt import adapt
from torchproof.adaptive.attempt import Attempt
from torchproof.adaptive.declaration import declaration
from torchproof.adaptive.defence import Defence, Material
from torchproof.adaptive.hunt import Hunt
from torchproof.adaptive.judge import DRAWS, Judge
from torchproof.adaptive.predictor import DefendedPredictor
from torchproof.attack.catalogue import apgd, pgd, square
from torchproof.attack.combine import Attack, Chain, EveryTarget
from torchproof.core.errors import InputError, TorchproofError
from torchproof.core.objectives import Classification, Margin, Objective, TargetedMargin
from torchproof.core.rejection import Rejecting
from torchproof.core.threats import Threat, parse
from torchproof.core.unaware import Unaware
from torchproof.data.dataset import Dataset
from torchproof.reproduce.adaptive_record import Attacked, Debugged, Marks, Tried

_LOOKED = 16  # images on which randomness is measured


def on_defence(
    defended: DefendedPredictor, defence: Defence, material: Material, seed: int
) -> Attacked:
    """The naive evaluation of its paper, then the attacks that broke it."""
    threat = parse(defence.threat)
    naive, more = (make(defended, threat, material) for make in (defence.naive, defence.adaptive))
    return attacked(defended, defended.rule, material.test, naive, more, seed)


def on_base(
    base: nn.Module, defended: DefendedPredictor, defence: Defence, material: Material, seed: int
) -> Attacked:
    """The same naive evaluation of the undefended network, then stronger attacks."""
    threat = parse(defence.threat)
    naive = [bare(attempt) for attempt in defence.naive(defended, threat, material)]
    return attacked(base, None, material.test, naive, list(stronger(threat)), seed)


def attacked(
    model: nn.Module, rule: Rejecting | None, test: Dataset, naive: Sequence[Attempt],
    more: Sequence[Attempt], seed: int,
) -> Attacked:  # fmt: skip
    """Each attempt on what those before it left standing."""
    before, x, y = time.process_time(), test.x, test.y
    seen = declaration(model, x[:_LOOKED], y[:_LOOKED], seed).measured.properties
    judge = Judge(model, rule, DRAWS if seen.random else 1, seed)
    clean = judge.clean(x, y)
    hunt = Hunt(judge, x, y, torch.arange(len(x)), clean.clone(), math.inf, seed)
    left = []
    for attempts in (naive, more):
        for attempt in attempts:
            rows = hunt.standing.nonzero()[:, 0]
            if len(rows):
                hunt.run(attempt, rows, "")
        left.append(_marks(hunt.standing))
    return Attacked(
        clean=_marks(clean), naive=left[0], all=left[1],
        tried=tuple(Tried(name=s.name, asked=s.asked, won=s.won) for s in hunt.steps),
        seconds=time.process_time() - before,
    )  # fmt: skip


def bare(attempt: Attempt) -> Attempt:
    """The attempt on a network that answers with logits and never rejects."""
    attack = attempt.attack
    if isinstance(attack, Chain):
        return replace(attempt, on=None, attack=Chain(tuple(map(_without, attack.attacks))))
    return replace(attempt, on=None, attack=_without(attack))


def _without(attack: Attack) -> Attack:
    """The objective's part about the class."""
    objective: Objective = attack.objective
    if isinstance(objective, (Unaware, Rejecting)):
        objective = objective.inner
    if not isinstance(objective, Classification):
        objective = TargetedMargin() if objective.targeted else Margin()
    return replace(attack, objective=objective)


def stronger(threat: Threat) -> Iterator[Attempt]:
    """For a network that hides nothing; those that know no such threat are left out."""
    makers: dict[str, Callable[[], Attack]] = {
        "APGD-60 on the margin": lambda: apgd(threat, 60, Margin()),
        "PGD-60, every target": lambda: EveryTarget(pgd(threat, 60, objective=TargetedMargin())),
        "Square-1000": lambda: square(threat, 1000),
    }
    for name, make in makers.items():
        try:
            yield Attempt(name, make(), why="the base hides no gradient")
        except InputError:
            continue


def debugged(
    model: Any, test: Dataset, threat: Threat, budget: int, seed: int,
    naive: Sequence[Attempt] | None = None, references: Dataset | None = None,
    before: Attacked | None = None, say: Callable[[str], None] = lambda text: None,
) -> Debugged:  # fmt: skip
    """`adapt` with the naive evaluation, as a user would run it. before: what that has found, for
    the case that adapt refuses the model or its threat.
    """
    start = time.process_time()
    known = None if references is None else (references.x, references.y)
    try:
        found = adapt(
            model, test.x, test.y, threat, budget, seed, naive=naive, references=known, say=say
        )
    except TorchproofError as error:
        if before is None:
            raise
        say(f"refused: {error}")
        return Debugged(
            clean=before.clean, robust=before.naive, flags=(), suspect=None, best="", found=0,
            problems=0, informative=False, passes=False, spent=0,
            seconds=time.process_time() - start, code=code(), refused=str(error),
        )  # fmt: skip
    active = found.active
    return Debugged(
        clean=tuple(row.status != "wrong" for row in found.rows),
        robust=tuple(row.status == "standing" for row in found.rows),
        flags=found.names, suspect=found.suspect, best=found.best,
        found=0 if active is None else active.found,
        problems=0 if active is None else active.problems,
        informative=active is not None and active.informative,
        passes=active is not None and active.passes,
        spent=found.spent, seconds=time.process_time() - start, code=code(),
    )  # fmt: skip


def code() -> str:
    """8 hexadecimal digits of the sources of the workbench, the zoo left out: `adapt` is judged as
    it is now.
    """
    digest = hashlib.sha256()
    for file in sorted(Path(torchproof.adaptive.__path__[0]).glob("*.py")):
        digest.update(b"" if file.name == "pictures.py" else file.read_bytes())
    return digest.hexdigest()[:8]


def _marks(rows: torch.Tensor) -> Marks:
    return tuple(bool(row) for row in rows)
