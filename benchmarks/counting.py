"""Counts what an attack really asks of a model, from outside: samples forward and samples backward,
for every example.
"""

from __future__ import annotations

from time import process_time
from typing import Any

import torch
from torch import Tensor, nn

# How far a point may lie outside the ball or the box before it is called outside (float noise).
TOLERANCE = 1e-6


class Counted(nn.Module):
    """The model, counting. Every row of a forward pass, and every row whose gradient comes back, is
    booked on the example whose clean image is nearest.

    forward_rows, backward_rows: (N,) int64; strays: rows further than eps from the image they were
    booked on (0 for attacks that stay in the ball: then the books are exact); bookkeeping: CPU
    seconds spent on counting, to be taken off a measured time.
    """

    def __init__(self, model: nn.Module, x: Tensor, eps: float) -> None:
        super().__init__()
        self.model = model
        self.clean, self.eps = x, eps
        self._flat = x.flatten(1)
        self._half = self._flat.square().sum(1) / 2
        self.forward_rows = torch.zeros(len(x), dtype=torch.int64)
        self.backward_rows = torch.zeros(len(x), dtype=torch.int64)
        self.strays = 0
        self.bookkeeping = 0.0
        self.training = model.training  # not .train(), which would reset frozen parts

    def forward(self, x: Tensor) -> Any:
        began = process_time()
        owner = self._owner(x.detach())
        self.forward_rows += torch.bincount(owner, minlength=len(self.clean))
        self.bookkeeping += process_time() - began
        out = self.model(x)
        if out.requires_grad:
            out.register_hook(lambda grad: self._returned(owner, grad))
        return out

    @torch.no_grad()
    def _owner(self, x: Tensor) -> Tensor:
        """(B,) the example each row is about."""
        rows = x.flatten(1).float()
        owner = (rows @ self._flat.T - self._half).argmax(1)
        far = self._too_far(rows, owner).nonzero()[:, 0]
        if len(far):  # a large radius can lead past the nearest image in L2; the ball is in Linf
            apart = (rows[far, None] - self._flat).abs().amax(2)
            owner[far] = apart.argmin(1)
            self.strays += int(self._too_far(rows[far], owner[far]).sum())
        return owner

    def _too_far(self, rows: Tensor, owner: Tensor) -> Tensor:
        """(B,) is a row outside the ball around its image?"""
        return (rows - self._flat[owner]).abs().amax(1) > self.eps + 10 * TOLERANCE

    def _returned(self, owner: Tensor, grad: Tensor) -> None:
        """A gradient came back for every row of a forward pass."""
        assert len(grad) == len(owner)
        began = process_time()
        self.backward_rows += torch.bincount(owner, minlength=len(self.clean))
        self.bookkeeping += process_time() - began


@torch.no_grad()
def broken(
    model: nn.Module, x: Tensor, y: Tensor, eps: float, points: Tensor
) -> tuple[Tensor, Tensor]:
    """(N,) which points are adversarial (in ball and box, misclassified), and which lie outside."""
    away = (points - x).abs().flatten(1).amax(1) > eps + TOLERANCE
    beyond = torch.maximum(-points, points - 1).flatten(1).amax(1) > TOLERANCE
    outside = away | beyond | ~torch.isfinite(points).flatten(1).all(1)
    return (model(points).argmax(1) != y) & ~outside, outside
