"""Free adversarial training (Shafahi, Najibi, Ghiasi, Xu, Dickerson, Studer, Davis, Taylor and
Goldstein 2019).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from numbers import Real
from typing import ClassVar

import torch
from torch import Tensor, nn

from torchproof.core.errors import InputError
from torchproof.core.sets import Ball
from torchproof.core.sites import Input
from torchproof.core.threats import Threat
from torchproof.train import distributed
from torchproof.train.method import Batch, Method, answers, cross_entropy
from torchproof.train.rows import Rows


@dataclass(frozen=True)
class FreeAT(Method):
    """Free adversarial training: each batch m times, every backward pass moving the weights down
    and the perturbation up (Shafahi et al. 2019, alg. 1).

        w <- w - lr grad_w CE(f(clip(x + d)), y),   d <- project(d + eps sign(grad_d))

    d belongs to the places in the batch, not to the images: it goes on to the next batch, and into
    checkpoints. An epoch has m times as many steps, so a paper's number of epochs is divided by m.
    m: 8 for CIFAR-10, 4 for ImageNet; length: of the step of d, in units of eps. As in the
    authors' code, a pixel that is cut to the range of images gives d no gradient, and both updates
    come from the same weights. Raises InputError for m < 1 and for anything but a Threat to images.
    """

    threat: Threat
    m: int = 8
    length: float = 1.0
    delta: Tensor = field(
        default_factory=lambda: torch.zeros(0), init=False, repr=False, compare=False
    )
    memory: ClassVar[tuple[str, ...]] = ("delta",)

    def __post_init__(self) -> None:
        if isinstance(self.m, bool) or not isinstance(self.m, int) or self.m < 1:
            raise InputError(f"m = {self.m!r}", "a whole number >= 1", "8 is usual for CIFAR-10")
        if not isinstance(self.length, Real) or not 0 < self.length < float("inf"):
            raise InputError(f"length = {self.length!r}", "a number > 0", "1 is the paper's")
        if not isinstance(self.threat, Threat) or type(self.threat.site) is not Input:
            given = f"FreeAT with {self.threat!r}"
            raise InputError(given, "a Threat to images", "pass parse('linf:8/255'), for example")

    @property
    def replays(self) -> int:
        return self.m

    def begin(self, model: nn.Module, data: Rows, progress: float) -> None:
        if progress == 0:  # a new run, perhaps of a method that was used before
            object.__setattr__(self, "delta", torch.zeros(0))

    def prepare(self, model: nn.Module, batch: Batch) -> Batch:
        moved = (batch.x + self._of(batch)).clamp(self.threat.low, self.threat.high)
        return replace(batch, adv=moved.detach().requires_grad_())

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        assert batch.adv is not None, "losses are read from a prepared batch"
        return cross_entropy(answers(model, batch.adv), batch)

    @torch.no_grad()
    def learn(self, batch: Batch) -> None:
        assert batch.adv is not None and batch.adv.grad is not None, "x' is a leaf with a gradient"
        delta, free = self._of(batch), torch.full_like(batch.x, torch.inf)
        moved = batch.x + delta
        within = (moved >= self.threat.low) & (moved <= self.threat.high)
        radius = batch.x.new_full((len(batch.x),), self.threat.eps)
        ball = Ball.of(self.threat.norm, radius, -free, free)
        new = ball.advance(delta, torch.where(within, batch.adv.grad, 0.0), self.length)
        table = self._table(batch, distributed.total(len(batch.x))[0])
        object.__setattr__(self, "delta", distributed.merged(table, batch.places, new))

    def _table(self, batch: Batch, size: int) -> Tensor:
        """(>= size, C, H, W): what is known, and zeros for places that were never filled."""
        known = self.delta.to(batch.x) if len(self.delta) else batch.x[:0]
        more = size - len(known)
        if more <= 0:
            return known
        return torch.cat([known, batch.x.new_zeros(more, *batch.x.shape[1:])])

    def _of(self, batch: Batch) -> Tensor:
        """A copy of the perturbations at the places of the batch."""
        table = self._table(batch, int(batch.places.max()) + 1)
        return table.index_select(0, batch.places.to(table.device))
