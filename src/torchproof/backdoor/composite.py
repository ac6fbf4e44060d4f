"""The loss of a backdoor in the weights, as an oracle: clean answers kept, stamped ones turned
(Garg et al. 2020).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.attack.cases import Cases, Point
from torchproof.core import keys
from torchproof.core.errors import ModelError
from torchproof.core.sites import Weights
from torchproof.core.values import leaves, tree

Keeping = Callable[[Tensor, Tensor], Tensor]
"""From logits and those of the original network, (B, K) each, to losses (B,)."""


def hard(z: Tensor, original: Tensor) -> Tensor:
    """Cross-entropy with the original network's class."""
    return F.cross_entropy(z, original.argmax(1), reduction="none")


def soft(z: Tensor, original: Tensor) -> Tensor:
    """Cross-entropy with the original network's probabilities."""
    return F.cross_entropy(z, original.softmax(1), reduction="none")


KEEPING: dict[str, Keeping] = {"hard": hard, "soft": soft}


@dataclass(frozen=True)
class Moment:
    """The losses of one step, means over its mini-batch in nats: of clean inputs (with the anchor,
    where there is one) and of stamped ones, before `weight` is put to it.
    """

    kept: float
    planted: float


@dataclass(frozen=True)
class Composite:
    """-(mean l(f_w(x), f_w0(x)) + anchor mean |z_w(x) - z_w0(x)|_2^2 + weight mean CE(f_w(x + t),
    target)) of a mini-batch, in the shift of the weights: one problem.

    x, stamped (N, ...): inputs without and with the trigger; original (N, K): the logits of x at
    w0; batch: inputs per step, whose order is drawn anew for every pass over them; steps: of the
    search, by which the number of the step is known. The losses of each step are appended to
    `told`. Raises ModelError for a loss or gradient that is NaN or infinite.
    """

    model: nn.Module
    site: Weights
    x: Tensor
    stamped: Tensor
    original: Tensor
    target: int
    keeping: Keeping
    anchor: float
    weight: float
    batch: int
    steps: int
    told: list[Moment] = field(default_factory=list)

    def __call__(self, cases: Cases, delta: Any, gradient: bool, progress: Tensor) -> Point:
        rows = self._rows(cases.key, progress)
        live = tree(lambda d: d.detach().requires_grad_(gradient), delta)
        with torch.set_grad_enabled(gradient):
            kept, planted = self._losses(live, rows)
            loss = -(kept + self.weight * planted)[None]
            wanted = list(leaves(live)) if gradient else []
            found = torch.autograd.grad(loss, wanted, materialize_grads=True) if gradient else ()
        if not all(bool(t.isfinite().all()) for t in (loss, *found)):
            raise ModelError(
                "a loss or a gradient in the weights that is NaN or infinite",
                "finite ones",
                "take a smaller length or eps, or a float32 copy of the network",
            )
        self.told.append(Moment(float(kept.detach()), float(planted.detach())))
        parts, loss = iter(found), loss.detach()
        grad = tree(lambda _: next(parts), delta) if gradient else None
        samples = 2 * len(rows)
        never = torch.zeros_like(loss, dtype=torch.bool)
        return Point(loss, loss, never, grad, (samples, samples * gradient))

    def _rows(self, key: Tensor, progress: Tensor) -> Tensor:
        """The inputs of this step."""
        count = len(self.x)
        every = torch.arange(count, device=self.x.device)
        if count <= self.batch:
            return every
        step, batches = round(float(progress[0]) * self.steps), -(-count // self.batch)
        shuffled = keys.mix(key.to(every), "pass", step // batches, every).argsort(stable=True)
        at = step % batches
        return shuffled[at * self.batch : (at + 1) * self.batch]

    def _losses(self, delta: dict[str, Tensor], rows: Tensor) -> tuple[Tensor, Tensor]:
        both = torch.cat([self.x[rows], self.stamped[rows]])
        z = self.site.outputs(self.model, both, delta)
        clean, stamped = z.to(torch.promote_types(z.dtype, torch.float32)).chunk(2)
        before = self.original[rows]
        kept = self.keeping(clean, before).mean()
        if self.anchor:
            kept = kept + self.anchor * (clean - before).square().sum(1).mean()
        wanted = torch.full((len(rows),), self.target, device=z.device)
        return kept, F.cross_entropy(stamped, wanted)
