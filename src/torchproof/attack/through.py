"""Gradients of one model, verdicts of another: a surrogate shows the way, the defence judges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from torchproof.attack.cases import Cases, Point
from torchproof.attack.oracle import Oracle, Plain
from torchproof.core.objectives import Objective
from torchproof.core.sites import Model, Site


@dataclass(frozen=True)
class Through:
    """Loss and gradient of `model` under `objective`; won and score as `inner` answers about the
    attacked model, so that the best iterate is the best against that one.

    The surrogate is asked in the mode that it is in. A question costs both.
    """

    inner: Oracle
    model: Model
    site: Site
    objective: Objective

    def __call__(self, cases: Cases, delta: Any, gradient: bool, progress: Tensor) -> Point:
        judged = self.inner(cases, delta, False, progress)
        if not gradient:
            return judged
        shown = Plain(self.model, self.site, self.objective)(cases, delta, True, progress)
        cost = (judged.cost[0] + shown.cost[0], judged.cost[1] + shown.cost[1])
        return judged._replace(
            loss=shown.loss, grad=shown.grad, cost=cost, undefined=shown.undefined
        )
