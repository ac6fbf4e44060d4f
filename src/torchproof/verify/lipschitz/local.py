"""From local Lipschitz constants, which grow with the ball, to radii."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from torchproof.core.norms import Norm
from torchproof.verify.graph import Graph
from torchproof.verify.inputs import rows_of
from torchproof.verify.lipschitz.jacobian import Steepness, ball
from torchproof.verify.lipschitz.margin import dual, margins_at
from torchproof.verify.memory import entries

SCALES, HALVINGS = 40, 10  # halvings until a radius passes, and between it and twice it
MOST = 1e3  # the largest radius that is looked for, input units


class Entries(Protocol):
    """Entries (R, *x) no smaller than those of the Jacobian of <row, answer>, rows (R, K)."""

    def __call__(self, steepness: Steepness, rows: Tensor, example: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Local:
    """Radii from the Jacobian in a ball. entries: what bounds it; method: what bounds the values in
    the middle of the network, a name of BOUNDS (the last member, of several).
    """

    entries: Entries
    method: str = "fast-lin"

    def lipschitz(self, graph: Graph, x: Tensor, y: Tensor, norm: Norm, radii: Tensor) -> Tensor:
        """(B, K - 1) Lipschitz constants of z_y - z_t within radii (B,) of x (B, ...)."""
        with torch.no_grad():
            steepness = Steepness.of(graph, ball(x, norm, radii), self.method)
            answer = steepness.single[graph.output]
            rows = rows_of(y, answer.shape[-1]).to(answer.dtype)
            example = torch.arange(len(x), device=x.device).repeat_interleave(rows.shape[1])
            largest = max(steepness.single[name].numel() for name in graph.live)
            count = max(1, entries() // largest)
            split = (torch.split(t, count) for t in (rows.flatten(0, 1), example))
            parts = [
                dual(norm).length(self.entries(steepness, part, of).flatten(1))
                for part, of in zip(*split, strict=True)
            ]
            return torch.cat(parts).view(rows.shape[:2])

    def radius(self, graph: Graph, x: Tensor, y: Tensor, norm: Norm) -> Tensor:
        """(B,) the largest r found with margin >= r L(r); 0 where the class is not y."""
        return bisected(
            margins_at(graph, x, y), lambda radii: self.lipschitz(graph, x, y, norm, radii)
        )

    def certified_at(self, graph: Graph, x: Tensor, y: Tensor, norm: Norm, eps: float) -> Tensor:
        """(B,) is margin > eps L(eps)? One pass instead of a search."""
        found = self.lipschitz(graph, x, y, norm, x.new_full((len(x),), eps))
        return (margins_at(graph, x, y) > eps * found).all(1)


def bisected(gaps: Tensor, constant: Callable[[Tensor], Tensor]) -> Tensor:
    """(B,) the largest radii r found with r L_t(r) <= margin for all t; gaps (B, K - 1), constant
    takes radii (B,) to (B, K - 1).

    Every radius that passed holds by itself, whether or not smaller ones pass. The search halves
    the margin over the slope at x, which no constant is less than, until it passes; then it
    bisects.
    """

    def passed(at: Tensor) -> Tensor:
        return (at[:, None] * constant(at) <= gaps).all(1)

    right = (gaps > 0).all(1)
    low = torch.zeros_like(gaps[:, 0])
    ratio = gaps / constant(low)
    high = torch.where(right, ratio.amin(1).nan_to_num(MOST, MOST), low).clamp(0, MOST)
    good = right & passed(high)
    for _ in range(SCALES):
        if bool((good | ~right).all()):
            break
        high = torch.where(good, high, high / 2)
        good = right & passed(high)
    low, high = torch.where(good, high, low), torch.where(good, 2 * high, low).clamp_max(MOST)
    for _ in range(HALVINGS):
        middle = low + (high - low) / 2
        good = right & passed(middle)
        low, high = torch.where(good, middle, low), torch.where(good, high, middle)
    return low
