"""Margins by branch and bound: propagation first, then the signs of hinge neurons are split."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from torchproof.core.norms import Linf
from torchproof.core.threats import AnyThreat
from torchproof.verify.bounds import IBP, Bound, Margins, Pass, graph_of
from torchproof.verify.clock import OutOfTime, limit
from torchproof.verify.graph import Graph
from torchproof.verify.inputs import InputSet, rows_of
from torchproof.verify.relu_split import split_hinges

ROOT = (IBP, Bound("linear", "linear"), Bound("linear", "linear", steps=20, middle_steps=5))
"""The passes before: intervals, CROWN, then with optimised slopes everywhere, each where the last
was not enough."""


def bab_margins(
    model: nn.Module | Graph,
    x: Tensor,
    y: Tensor,
    threat: AnyThreat,
    *,
    time_limit: float | None = None,
) -> Margins:
    """(B, K - 1) lower bounds of z_y - z_t over the threat around x (B, C, H, W), t != y in order.

    Margins are split until they are above 0 (complete for ReLU-like networks), so a positive bound
    says no more than that it is one. time_limit: seconds for each example, after which margins that
    are open keep the least bound of their parts. A counterexample that is met on the way (for Linf)
    ends the example's search, and is given back. Raises ModelError for operations without a rule,
    InputError for x outside the pixel box.
    """
    graph = model if isinstance(model, Graph) else graph_of(model, x)
    inside = InputSet.of(x, threat)
    each = [
        _one(graph, inside.take(torch.tensor([row])), y[row : row + 1], time_limit)
        for row in range(len(x))
    ]
    lower, walked, found = zip(*each, strict=True)
    return Margins(torch.stack(lower), sum(walked), found)


@torch.no_grad()
def _one(
    graph: Graph, inside: InputSet, y: Tensor, seconds: float | None
) -> tuple[Tensor, int, Tensor | None]:
    """(K - 1,) bounds of one example, rows walked, and a counterexample if one is met."""
    rows = rows_of(y, graph.run(inside.x)[graph.output].shape[-1]).to(inside.x)
    best, walked = torch.full_like(rows[0, :, 0], -torch.inf), 0
    with limit(seconds):
        try:
            for bound in ROOT:
                passed = Pass.of(graph, inside, bound)
                best = torch.maximum(best, passed.lower(rows)[0])
                walked += passed.walk.walked
                if bool((best > 0).all()):
                    return best, walked, None
        except OutOfTime:
            return best, walked, None
        open_ = (best <= 0).nonzero()[:, 0]
        questions = [rows[0, t][None] for t in open_.tolist()]
        limits = [inside.x.new_zeros(1)] * len(questions)
        box = isinstance(inside.ball.norm, Linf)
        split = split_hinges(passed, questions, limits, falsify=box)
        best[open_] = torch.maximum(best[open_], split.lower)
    return best, walked + split.walked, split.x
