"""Be like another example: matching of features or logits (Sabour et al. 2016; Tramer et al. 2020).

A detector that looks at features, or at logits, cannot tell an input from another one that has the
same; so the adversary drives its own towards those of an example of another class.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from torchproof.core.errors import InputError, ModelError
from torchproof.core.objectives import Goal, Judged, Objective
from torchproof.core.rejection import Rejecting


@dataclass(frozen=True, eq=False)
class Matching(Judged):
    """loss = -|f(x') - r_t|^2 / D, r_t the reference of the class `goal.target` that is nearest to
    f(x') itself, f what the model returns under `key`; judged as `rule` judges.

    references: class by class (R, D), as many classes as the model has. Targeted: combine it with
    `EveryTarget`. Raises InputError for references of different widths, ModelError for a model
    that does not return `key` with that width.
    """

    references: tuple[Tensor, ...]
    key: str = "logits"
    rule: Objective = Rejecting()
    targeted: ClassVar[bool] = True

    def __post_init__(self) -> None:
        shapes = {tuple(r.shape[1:]) for r in self.references if r.ndim == 2 and len(r)}
        if len(shapes) != 1 or any(r.ndim != 2 or not len(r) for r in self.references):
            given = f"references of shapes {[tuple(r.shape) for r in self.references]}"
            raise InputError(given, "(R, D) for each class, D the same", "pass one row at least")

    def loss(self, out: Any, goal: Goal) -> Tensor:
        if not isinstance(out, dict) or self.key not in out:
            given = f"a model that returns {sorted(out) if isinstance(out, dict) else 'logits'}"
            raise ModelError(given, f"a table with {self.key!r}", "wrap the model to return it")
        found = out[self.key].flatten(1)
        width = self.references[0].shape[1]
        if found.shape[1] != width:
            given = f"{self.key} of {found.shape[1]} numbers an input"
            raise ModelError(given, f"{width}, as the references have", "match the same layer")
        losses: Tensor = found.new_zeros(len(found))
        for target in torch.unique(goal.target).tolist():
            losses = torch.where(goal.target == target, self._towards(found, target), losses)
        return losses

    def _towards(self, found: Tensor, target: int) -> Tensor:
        goals = self.references[target].to(found)
        with torch.no_grad():
            nearest = torch.cdist(found, goals).argmin(1)
        return -(found - goals[nearest]).square().mean(1)
