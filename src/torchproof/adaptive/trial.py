"""An attempt carried out: what it is computed on may be anything, the verdict is the defence's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchproof.adaptive.attached import Attached
from torchproof.adaptive.attempt import Attempt
from torchproof.adaptive.judge import Judge, Verdict
from torchproof.attack.run import Run
from torchproof.attack.untouched import home, untouched
from torchproof.core import keys
from torchproof.core.sites import Model
from torchproof.core.unaware import logits_of

_ALIKE = 1e-5  # of the largest logit: a substitute answers as the defence does


@dataclass(frozen=True)
class Trial:
    """What an attempt found for N examples: the verdict on its images x (N, C, H, W); forward,
    backward: the samples that the attack and the judge have spent on all of them together.
    """

    attempt: Attempt
    verdict: Verdict
    x: Tensor
    forward: int
    backward: int

    @property
    def won(self) -> int:
        """How many examples the judge counts as lost."""
        return int(self.verdict.lost.sum())

    @property
    def spent(self) -> int:
        """Forward and backward samples together."""
        return self.forward + self.backward


def carry_out(
    attempt: Attempt, judge: Judge, x: Tensor, y: Tensor, ids: Tensor, seed: int = 0,
    slots: int = 128,
) -> Trial:  # fmt: skip
    """Runs the attempt on images x (N, C, H, W), labels y (N,), with example ids (N,).

    Where the attacked model is random, or answers otherwise than the judged one, a win there may be
    none here: the search then goes on to its best point instead of stopping at the first.
    """
    asked = judge.model if attempt.on is None else attempt.on
    sure = judge.draws == 1 and (attempt.on is None or _alike(judge.model, attempt.on, x))
    run = Run(
        seed=keys.seed_of(seed, attempt.name),
        ids=ids,
        slots=slots,
        patience=0.0 if sure else math.inf,
    )
    place = home(judge.model, x.device)
    # copies and surrogates inside of oracles are asked as they are, and draw from the same source
    with untouched(judge.model, keys.seed_of(seed, "trial"), place):
        found = attempt.attack(Attached(asked), x, y, run=run)
    value: Any = found.value
    moved = (x + value.to(x)).detach()
    verdict = judge(moved, y)
    forward, backward = found.spent.sum(0).tolist()
    return Trial(attempt, verdict, moved, forward + judge.draws * len(x), backward)


@torch.no_grad()
def _alike(one: Model, other: Model, x: Tensor) -> bool:
    """Do two models answer the first images alike?"""
    part = x[:4].to(home(one, x.device))
    with untouched(one), untouched(other):
        first, second = one(part), other(part)
    if isinstance(first, dict) != isinstance(second, dict):
        return False
    a, b = logits_of(first), logits_of(second)
    return a.shape == b.shape and float((a - b).abs().max()) <= _ALIKE * float(a.abs().max())
