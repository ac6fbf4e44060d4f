"""Towards one class in every picture of the input that a defence looks at: detectors that compare a
classifier's answers find nothing to compare (He et al. 2017).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor
from torch.nn import functional as F

from torchproof.core.errors import InputError, ModelError
from torchproof.core.objectives import Goal, Judged
from torchproof.core.rejection import Rejecting


@dataclass(frozen=True)
class EveryView(Judged):
    """loss = -(mean over the views of the cross-entropy to the class `goal.target`); judged as
    `rule` judges.

    A view is the input itself, or squeezed, or otherwise changed: the model returns under `key`
    their logits side by side, (B, views * K) and whatever else follows. Targeted: combine it with
    `EveryTarget`. Raises InputError for views < 1, ModelError for a model that answers otherwise.
    """

    views: int
    rule: Rejecting = Rejecting()
    key: str = "features"
    targeted: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.views < 1:
            raise InputError(f"views = {self.views!r}", "1 or more", "count the input itself too")

    def loss(self, out: Any, goal: Goal) -> Tensor:
        if not isinstance(out, dict) or not {"logits", self.key} <= set(out):
            given = f"a model that returns {sorted(out) if isinstance(out, dict) else 'logits'}"
            raise ModelError(given, f"a table with {self.key!r}", "use Guarded(.., features=True)")
        width = self.views * out["logits"].shape[1]
        logits = out[self.key][:, :width]
        if logits.shape[1] < width:
            given = f"{self.key} of {logits.shape[1]} numbers an input"
            raise ModelError(given, f"{width} or more, {self.views} views", "count the views")
        flat = logits.reshape(-1, out["logits"].shape[1])
        losses = F.cross_entropy(flat, goal.target.repeat_interleave(self.views), reduction="none")
        return -losses.view(-1, self.views).mean(1)
