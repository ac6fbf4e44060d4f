"""A model that is watched from outside: what an attack asked of it, and what it was shown."""

from __future__ import annotations

from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from torchproof.core.objectives import margin
from torchproof.core.threats import Threat
from torchproof.evaluate.recheck import allowed

NONE = -torch.inf


class Watched(nn.Module):
    """Answers as `model` does, and takes notes about the examples x (N, C, H, W), y (N,).

    forward_samples, backward_samples: how many images were asked about, and how many gradients came
    back. asked (N,): questions about each example; furthest (N,): the longest perturbation asked
    about; best (N,): the largest margin that an answer showed at an allowed point, above 0 where an
    attack saw that it had won. A question is taken to be about the example of its row where that
    fits, else about the nearest one. bookkeeping: the seconds that the notes took.
    """

    def __init__(self, model: nn.Module, threat: Threat, x: Tensor, y: Tensor) -> None:
        super().__init__()
        self.model, self.threat = model, threat
        self.clean, self.labels = x, y
        self.rows = torch.arange(len(x), device=x.device)
        self.asked = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        self.furthest = torch.zeros(len(x), dtype=x.dtype, device=x.device)
        self.best = torch.full((len(x),), NONE, device=x.device)
        self.forward_samples = self.backward_samples = 0
        self.bookkeeping = 0.0

    def attend(self, rows: Tensor) -> None:
        """The questions from now on are about these examples."""
        self.rows = rows

    def forward(self, x: Tensor) -> Any:
        out = self.model(x)
        began = perf_counter()
        self.forward_samples += len(x)
        if isinstance(out, Tensor):
            self._note(x.detach(), out.detach())
            if out.requires_grad:
                out.register_hook(self._returned)  # type: ignore[no-untyped-call]
        self.bookkeeping += perf_counter() - began
        return out

    def _returned(self, grad: Tensor) -> None:
        self.backward_samples += len(grad)

    @torch.no_grad()
    def _note(self, x: Tensor, out: Tensor) -> None:
        owner, inside = self._owners(x.to(self.clean))
        self.asked += torch.bincount(owner, minlength=len(self.asked))
        lengths = self.threat.norm.length(x.to(self.clean) - self.clean[owner])
        self.furthest.scatter_reduce_(0, owner, lengths, "amax")
        seen = margin(out.to(self.best), self.labels[owner])
        seen = torch.where(inside & seen.isfinite(), seen, NONE)
        self.best.scatter_reduce_(0, owner, seen, "amax")

    def _owners(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B,) which example each question is about, and whether it is about an allowed point."""
        if len(x) == len(self.rows):
            inside = self._allowed(self.rows, x)
            if bool(inside.all()):
                return self.rows, inside
        near = self.clean[self.rows].flatten(1)
        flat = x.flatten(1)
        owner = self.rows[(flat @ near.T - near.square().sum(1) / 2).argmax(1)]
        if len(x) == len(self.rows):  # attacks that leave the ball keep to their rows
            owner = torch.where(inside, self.rows, owner)
        return owner, self._allowed(owner, x)

    def _allowed(self, rows: Tensor, x: Tensor) -> Tensor:
        return allowed(self.threat, self.model, self.clean[rows], x)
