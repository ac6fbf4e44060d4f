"""Bounds of margins over an input set from Lipschitz constants: the margin at the image, less what
the constant allows over the set. No radius is looked for.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from torchproof.core.errors import InputError
from torchproof.core.norms import L1, L2, Linf, name_of
from torchproof.core.sets import Ball
from torchproof.core.threats import AnyThreat
from torchproof.verify import memory
from torchproof.verify.bounds import Margins, graph_of
from torchproof.verify.graph import Graph
from torchproof.verify.inputs import InputSet, rows_of
from torchproof.verify.lipschitz.jacobian import Steepness
from torchproof.verify.lipschitz.local import Local
from torchproof.verify.lipschitz.margin import margins_at
from torchproof.verify.lipschitz.op_norm import Constants


def global_margins(model: nn.Module | Graph, x: Tensor, y: Tensor, threat: AnyThreat) -> Margins:
    """(B, K - 1) lower bounds of z_y - z_t over the threat around x (B, C, H, W): the margins at x
    less op-norm's constants times the longest perturbation. The pixel box shortens that one, and
    nothing else.

    Raises InputError for L0, ModelError for operations without a Lipschitz constant.
    """
    graph = model if isinstance(model, Graph) else graph_of(model, x)
    inside = InputSet.of(x, threat)
    norm = inside.ball.norm
    if not isinstance(norm, (Linf, L2, L1)):
        remedy = "use bounds by propagation, which know L0"
        raise InputError(f"operator norms for {name_of(norm)}", "linf, l2 or l1", remedy)
    with torch.no_grad():
        gaps = margins_at(graph, x, y)
        rows = rows_of(y, gaps.shape[1] + 1).to(gaps.dtype)
        constants = Constants.made(graph, norm, x).row(rows.flatten(0, 1)).view_as(gaps)
        longest = torch.minimum(inside.ball.radius, norm.length(_reach(inside)))
        return Margins(gaps - longest[:, None] * constants, 0)


def local_margins(
    model: nn.Module | Graph, x: Tensor, y: Tensor, threat: AnyThreat, *, by: Local
) -> Margins:
    """(B, K - 1) lower bounds of z_y - z_t over the threat around x (B, C, H, W): the margins at x
    less the most that sum_i J_i |d_i| can be, J the largest absolute derivatives in the set.

    Both the derivatives and d know the set, so that the pixel box counts; with no box in reach this
    is the margin less eps times the dual norm of J. by: FAST_LIP, RECUR_JAC or CHORDS.
    """
    graph = model if isinstance(model, Graph) else graph_of(model, x)
    with torch.no_grad():
        inside = InputSet.of(x, threat)
        gaps, reach = margins_at(graph, x, y), _reach(inside)
        whole = InputSet(x, Ball.of(inside.ball.norm, inside.ball.radius, -reach, reach))
        steepness = Steepness.of(graph, inside, by.method)
        rows = rows_of(y, gaps.shape[1] + 1).to(gaps.dtype).flatten(0, 1)
        example = torch.arange(len(x), device=x.device).repeat_interleave(gaps.shape[1])
        largest = max(steepness.single[name].numel() for name in graph.live)
        parts = []
        for part in torch.split(torch.arange(len(rows)), max(1, memory.entries() // largest)):
            entries = by.entries(steepness, rows[part], example[part])
            parts.append(whole.lowest(entries, example[part]))
        return Margins(gaps + torch.cat(parts).view_as(gaps), len(rows))


def _reach(inside: InputSet) -> Tensor:
    """How far each entry can move, either way."""
    return torch.maximum(-inside.ball.floor, inside.ball.ceiling)
