"""Certified upper bounds of local Lipschitz constants in Euclidean lengths, of a whole network, of
its softmax, or of what a layer answers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from torchproof.core.errors import ModelError
from torchproof.core.norms import L2
from torchproof.core.sets import Ball
from torchproof.verify import memory
from torchproof.verify.bounds import graph_of
from torchproof.verify.graph import Graph
from torchproof.verify.inputs import InputSet
from torchproof.verify.lipschitz.jacobian import Steepness
from torchproof.verify.lipschitz.op_norm import Constants
from torchproof.verify.lipschitz.recur_jac import RECUR_JAC
from torchproof.verify.lipschitz.spectral import gram_bound

SOFTMAX = 0.5
"""Of softmax: its Jacobian diag(p) - p p^T has rows whose absolute values sum to 2 p (1 - p), and
no eigenvalue is larger than the largest of these.
"""


class Softmax(nn.Module):
    """A network's probabilities."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        probabilities: Tensor = self.model(x).softmax(1)
        return probabilities


class Layer(nn.Module):
    """What the named module of a network answers, flattened; raises ModelError unless it runs once
    and answers with a tensor (B, ...).
    """

    def __init__(self, model: nn.Module, name: str) -> None:
        super().__init__()
        self.model, self.name = model, name

    def forward(self, x: Tensor) -> Tensor:
        told: list[object] = []
        hook = self.model.get_submodule(self.name).register_forward_hook(
            lambda m, args, out: told.append(out)
        )
        try:
            self.model(x)
        finally:
            hook.remove()
        if len(told) != 1 or not isinstance(told[0], Tensor):
            given = f"layer {self.name!r}, which answered {len(told)} times"
            raise ModelError(given, "one tensor (B, ...), once", "choose another layer")
        return told[0].flatten(1)


def certified(
    model: nn.Module, x: Tensor, radii: Sequence[float], box: tuple[float, float] | None,
    local: bool,
) -> tuple[float, ...]:  # fmt: skip
    """(R,) upper bounds of alpha(r) over the points x (N, ...) of a float64 network in eval mode.

    The product of certified spectral norms, the same for all radii; local: or, where it is less,
    the largest over the points of the spectral norm of the matrix of largest absolute derivatives
    in ball and box. Raises ModelError for operations without a rule.
    """
    factor, traced = (SOFTMAX, model.model) if isinstance(model, Softmax) else (1.0, model)
    with torch.no_grad():
        graph = graph_of(traced.eval(), x[:1])
        whole = factor * float(Constants.made(graph, L2(), x[:1]).whole(graph.output))
        if not local:
            return (whole,) * len(radii)
        each = [factor * float(_steepest(graph, x, r, box).max()) for r in radii]
    return tuple(min(whole, value) for value in each)


def _steepest(graph: Graph, x: Tensor, r: float, box: tuple[float, float] | None) -> Tensor:
    """(N,) bounds of the Jacobian's spectral norm within r of each point."""
    parts = [_of_part(graph, part, r, box) for part in torch.split(x, 16)]
    return torch.cat(parts)


def _of_part(graph: Graph, x: Tensor, r: float, box: tuple[float, float] | None) -> Tensor:
    low, high = (-math.inf, math.inf) if box is None else box
    ball = Ball.of(L2(), x.new_full((len(x),), r), low - x, high - x)
    steepness = Steepness.of(graph, InputSet(x, ball), RECUR_JAC.method)
    width = steepness.single[graph.output].shape[-1]
    rows = torch.eye(width, dtype=x.dtype, device=x.device).repeat(len(x), 1)
    example = torch.arange(len(x), device=x.device).repeat_interleave(width)
    largest = max(steepness.single[name].numel() for name in graph.live)
    size = max(1, memory.entries() // largest)
    entries = [
        RECUR_JAC.entries(steepness, part, of).flatten(1)
        for part, of in zip(torch.split(rows, size), torch.split(example, size), strict=True)
    ]
    return gram_bound(torch.cat(entries).view(len(x), width, -1))
