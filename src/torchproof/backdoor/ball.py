"""The weights that a backdoor may use: within eps of the original ones, weight by weight."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from torchproof.core.errors import InputError
from torchproof.core.norms import Linf
from torchproof.core.sets import Ball, Product
from torchproof.core.sites import Model, Weights
from torchproof.core.threats import BOUNDED


def everything(name: str, parameter: nn.Parameter) -> bool:
    """Every parameter of floating type: kernels, biases, embeddings, scales of norm layers."""
    return parameter.is_floating_point()


@dataclass(frozen=True)
class Absolute:
    """Weight perturbations with |v_j| <= eps for every weight j, in the units of the weights.

    The same eps for all layers, whatever the size of their weights: rescaling two layers against
    each other changes what it allows. Raises InputError for an eps that is not a finite number > 0.
    """

    eps: float
    site: Weights = field(default_factory=lambda: Weights(everything))
    offers: ClassVar[frozenset[str]] = BOUNDED

    def __post_init__(self) -> None:
        if isinstance(self.eps, bool) or not 0 < self.eps < math.inf:
            expected = "a finite number > 0, in the units of the weights"
            raise InputError(f"eps = {self.eps!r}", expected, "0.05 is usual for small networks")

    def set(self, model: Model, x: Tensor) -> Product:
        """A ball for each tensor of the weights."""
        return Product({n: self._ball(w) for n, w in self.site.origin(model, x).items()})

    def _ball(self, w: Tensor) -> Ball:
        inf = torch.full_like(w, torch.inf)
        return Ball.of(Linf(), w.new_full((len(w),), self.eps), -inf, inf)

    @torch.no_grad()
    def move(self, model: nn.Module, shift: Mapping[str, Tensor]) -> None:
        """Adds the shift to the weights, in place; where rounding to the weights' type would leave
        the ball, the next number inside is taken.
        """
        parameters = dict(model.named_parameters())
        for name, v in shift.items():
            w = parameters[name]
            low, high = (_within(w.double() + e, w, sign) for e, sign in self._ends())
            w.copy_(torch.minimum(torch.maximum((w + v.to(w)).to(w), low), high))

    def _ends(self) -> tuple[tuple[float, float], tuple[float, float]]:
        return (-self.eps, 1.0), (self.eps, -1.0)


def _within(end: Tensor, like: Tensor, sign: float) -> Tensor:
    """`end` (float64) in the type of `like`, rounded up (sign 1) or down (-1)."""
    near = end.to(like.dtype)
    beyond = (near.double() - end) * sign < 0
    return torch.where(beyond, torch.nextafter(near, torch.full_like(near, sign * torch.inf)), near)
